//! What becomes of every key of a settings file: the table that readers consult and the documentation shows.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;

/// What this program does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Its value is obeyed, or refused by name.
    Read,
    /// It asks for what is not implemented: only a value that turns it off is accepted.
    Off,
    /// It changes nothing that this program computes.
    Ignored,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Usage::Read => "read",
            Usage::Off => "refused unless off",
            Usage::Ignored => "ignored",
        })
    }
}

/// Keys with one use, and why.
pub struct Group {
    /// What is done with them.
    pub usage: Usage,
    /// The keys.
    pub keys: &'static [&'static str],
    /// Why, for people.
    pub note: &'static str,
}

/// A kind of settings file, or of a section in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsFile {
    /// `config.json` of a VILA folder.
    Vila,
    /// `config.json` of a LLaVA folder, which describes the decoder as well.
    Llava,
    /// `config.json` of a llava-hf folder.
    LlavaHf,
    /// `config.json` of a decoder, `text_config` of llava-hf.
    Decoder,
    /// `config.json` of a vision tower, `vision_config` of llava-hf.
    Tower,
    /// `config.json` of `mm_projector/`.
    Projector,
    /// `generation_config.json`.
    Generation,
    /// `preprocessor_config.json`.
    Preprocessor,
}

const fn read(keys: &'static [&'static str], note: &'static str) -> Group {
    Group { usage: Usage::Read, keys, note }
}

const fn off(keys: &'static [&'static str], note: &'static str) -> Group {
    Group { usage: Usage::Off, keys, note }
}

const fn ignored(keys: &'static [&'static str], note: &'static str) -> Group {
    Group { usage: Usage::Ignored, keys, note }
}

/// What transformers writes into every configuration.
const COMMON: &[Group] = &[
    ignored(
        &[
            "_attn_implementation",
            "_attn_implementation_autoset",
            "_name_or_path",
            "architectures",
            "attn_implementation",
            "auto_map",
            "chunk_size_feed_forward",
            "dtype",
            "id2label",
            "initializer_factor",
            "initializer_range",
            "is_encoder_decoder",
            "label2id",
            "model_dtype",
            "output_attentions",
            "output_hidden_states",
            "problem_type",
            "return_dict",
            "tokenizer_class",
            "torch_dtype",
            "torchscript",
            "use_bfloat16",
            "use_cache",
        ],
        "bookkeeping of transformers; weights have the type that their files say",
    ),
    off(&["pruned_heads", "quantization_config"], "weights are read as they are"),
];

/// Generation settings that version 4 of transformers also wrote into model configurations.
const SAMPLING: &[Group] = &[ignored(
    &[
        "_from_model_config",
        "add_cross_attention",
        "bad_words_ids",
        "begin_suppress_tokens",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "is_decoder",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "pad_token_id",
        "prefix",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "top_k",
        "top_p",
        "typical_p",
    ],
    "how to generate is asked on the command line; nothing is padded",
)];

const DECODER: &[Group] = &[
    read(
        &[
            "attention_bias",
            "bos_token_id",
            "eos_token_id",
            "head_dim",
            "hidden_act",
            "hidden_size",
            "intermediate_size",
            "max_position_embeddings",
            "mlp_bias",
            "model_type",
            "num_attention_heads",
            "num_hidden_layers",
            "num_key_value_heads",
            "rms_norm_eps",
            "vocab_size",
        ],
        "the decoder; `hidden_act` other than silu and `model_type` other than llama are refused",
    ),
    read(
        &["rope_parameters", "rope_scaling", "rope_theta"],
        "`rope_scaling` wins over `rope_parameters`; types other than default and linear are refused",
    ),
    read(&["partial_rotary_factor"], "refused unless 1"),
    read(&["tie_word_embeddings"], "a head of its own in the weight files wins over the flag"),
    read(&["transformers_version"], "tells the order of `mlp_downsample`"),
    ignored(&["attention_dropout"], "this program trains without dropout in the decoder"),
    ignored(&["pretraining_tp"], "splits the same sums"),
    ignored(
        &["model_max_length", "tokenizer_model_max_length", "tokenizer_padding_side"],
        "the context is `max_position_embeddings`",
    ),
];

/// What LLaVA and VILA add.
const MULTIMODAL: &[Group] = &[
    read(
        &["llm_cfg", "mm_projector_type", "model_type", "mm_vision_tower", "vision_tower"],
        "the layout and its parts",
    ),
    read(&["bias"], "whether the projector's linear layers have biases; else the weight files tell"),
    read(
        &["mm_vision_select_layer", "mm_vision_select_feature"],
        "`patch` drops the first row of features, of SigLIP too",
    ),
    read(&["image_aspect_ratio"], "pad, square (what the tower's own processor does) or resize"),
    read(&["image_token_id"], "written by this program"),
    read(&["visual_expert", "vila_template"], "written by this program"),
    read(
        &[
            "dynamic_s2",
            "image_encoder",
            "max_tiles",
            "min_tiles",
            "num_time_tokens",
            "token_order",
            "transformers_version",
            "video_encoder",
            "video_max_tiles",
        ],
        "tell the order of `mlp_downsample`; `dynamic_s2` must be off and `image_encoder` be BasicImageEncoder",
    ),
    read(&["vision_resolution"], "refused unless it is the tower's own `image_size`"),
    read(&["mm_patch_merge_type"], "refused unless flat"),
    off(
        &["mm_resampler_type", "mm_use_im_patch_token", "mm_use_im_start_end", "ps3", "s2"],
        "what images become would differ",
    ),
    ignored(
        &[
            "drop_path_rate",
            "fps",
            "freeze_mm_mlp_adapter",
            "freeze_mm_vision_resampler",
            "high_res_pos_embed",
            "image_crop_resolution",
            "image_grid_pinpoints",
            "image_split_resolution",
            "interpolate_mode",
            "look_close_mode",
            "mm_hidden_size",
            "mm_low_res_token_num",
            "mm_projector_cfg",
            "mm_projector_lr",
            "mm_scale_num",
            "mm_vision_tower_lr",
            "num_look_close",
            "num_token_look_close",
            "num_video_frames",
            "ps3_dynamic_aspect_ratio",
            "resume_path",
            "s2_max_split_size",
            "s2_resize_output_to_scale_idx",
            "s2_scales",
            "time_token_format",
            "top_down_prompt_head_type",
            "tune_language_model",
            "tune_mm_mlp_adapter",
            "tune_mm_projector",
            "tune_mm_vision_resampler",
            "tune_vision_tower",
            "unfreeze_mm_vision_tower",
            "use_mm_proj",
            "vision_tower_cfg",
            "vision_tower_lr",
        ],
        "training of other programs, video, options of what is off, sizes that other files tell",
    ),
];

const VILA: &[Group] = &[ignored(&["hidden_size", "tie_word_embeddings"], "the decoder's own file tells")];

const LLAVA_HF: &[Group] = &[
    read(
        &[
            "image_token_id",
            "image_token_index",
            "mm_projector_type",
            "mm_vision_tower",
            "llm_cfg",
            "model_type",
            "multimodal_projector_bias",
            "projector_hidden_act",
            "text_config",
            "tie_word_embeddings",
            "vision_config",
            "vision_feature_layer",
            "vision_feature_select_strategy",
        ],
        "the whole model; a `projector_hidden_act` other than gelu is refused",
    ),
    read(&["vila_template"], "written by this program"),
    ignored(
        &["ignore_index", "image_seq_length", "pad_token_id", "transformers_version", "vocab_size"],
        "follows from the rest",
    ),
    ignored(&["vila_added"], "read by `vila convert`"),
];

const TOWER: &[Group] = &[
    read(
        &[
            "hidden_act",
            "hidden_size",
            "image_size",
            "intermediate_size",
            "layer_norm_eps",
            "model_type",
            "num_attention_heads",
            "num_channels",
            "num_hidden_layers",
            "patch_size",
            "vision_config",
        ],
        "the tower; `num_channels` other than 3 and other families than CLIP and SigLIP are refused",
    ),
    ignored(&["attention_dropout", "dropout"], "this program trains without dropout in the tower"),
    ignored(
        &[
            "bos_token_id",
            "eos_token_id",
            "logit_scale_init_value",
            "projection_dim",
            "text_config",
            "text_config_dict",
            "tie_word_embeddings",
            "transformers_version",
            "vision_config_dict",
            "vision_use_head",
            "vocab_size",
        ],
        "parts that come after the features, or before",
    ),
];

const PROJECTOR: &[Group] = &[
    read(&["bias", "mm_projector_type"], "the projector"),
    read(&["token_order", "transformers_version"], "`columns` or `rows`, where `mlp_downsample` does not tell"),
    ignored(&["model_type"], "always v2l_projector"),
];

const GENERATION: &[Group] = &[
    read(&["bos_token_id", "eos_token_id"], "the tokens that start and end a text"),
    ignored(&["transformers_version"], "bookkeeping"),
];

const PREPROCESSOR: &[Group] = &[
    read(
        &[
            "crop_size",
            "do_center_crop",
            "do_normalize",
            "do_pad",
            "do_rescale",
            "do_resize",
            "feature_extractor_type",
            "image_mean",
            "image_processor_type",
            "image_std",
            "resample",
            "rescale_factor",
            "size",
        ],
        "as the class that the file names obeys them: SigLIP's knows no crop, CLIP's no `do_pad`; filters other than \
         bicubic are refused",
    ),
    off(&["do_flip_channel_order", "do_reduce_labels", "do_thumbnail", "use_square_size"], "pixels would differ"),
    ignored(&["do_convert_rgb"], "images are always converted to RGB"),
    ignored(
        &[
            "_processor_class",
            "_valid_processor_keys",
            "auto_map",
            "backend",
            "data_format",
            "default_to_square",
            "device",
            "disable_grouping",
            "image_seq_length",
            "input_data_format",
            "pad_size",
            "patch_size",
            "processor_class",
            "return_tensors",
        ],
        "how transformers calls the processor",
    ),
];

impl SettingsFile {
    /// All kinds.
    pub const ALL: [SettingsFile; 8] = [
        SettingsFile::Vila,
        SettingsFile::Llava,
        SettingsFile::LlavaHf,
        SettingsFile::Decoder,
        SettingsFile::Tower,
        SettingsFile::Projector,
        SettingsFile::Generation,
        SettingsFile::Preprocessor,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            SettingsFile::Vila => "`config.json` of a VILA folder",
            SettingsFile::Llava => "`config.json` of a LLaVA folder",
            SettingsFile::LlavaHf => "`config.json` of a llava-hf folder",
            SettingsFile::Decoder => "`llm/config.json`, `text_config` of llava-hf, `config.json` of a decoder",
            SettingsFile::Tower => "`vision_tower/config.json`, `vision_config` of llava-hf, `config.json` of a tower",
            SettingsFile::Projector => "`mm_projector/config.json`",
            SettingsFile::Generation => "`generation_config.json`",
            SettingsFile::Preprocessor => "`preprocessor_config.json`",
        }
    }

    /// Its keys. Where two groups name a key, the first one counts.
    pub fn groups(self) -> impl Iterator<Item = &'static Group> {
        let parts: &[&[Group]] = match self {
            SettingsFile::Vila => &[MULTIMODAL, VILA, COMMON, SAMPLING],
            SettingsFile::Llava => &[MULTIMODAL, DECODER, COMMON, SAMPLING],
            SettingsFile::LlavaHf => &[LLAVA_HF, COMMON, SAMPLING],
            SettingsFile::Decoder => &[DECODER, COMMON, SAMPLING],
            SettingsFile::Tower => &[TOWER, COMMON, SAMPLING],
            SettingsFile::Projector => &[PROJECTOR, COMMON, SAMPLING],
            SettingsFile::Generation => &[GENERATION, COMMON, SAMPLING],
            SettingsFile::Preprocessor => &[PREPROCESSOR],
        };
        parts.iter().flat_map(|groups| groups.iter())
    }

    /// What is done with a key; nothing is known of others.
    pub fn usage(self, key: &str) -> Option<Usage> {
        self.groups().find(|group| group.keys.contains(&key)).map(|group| group.usage)
    }

    /// Looks at every key before any is read: refuses what would be read over and warns, once per file, of keys that
    /// nobody knows. The error is a key and what is wrong with it.
    pub(crate) fn check<'a>(
        self,
        path: &Path,
        entries: impl Iterator<Item = (&'a str, &'a Value)>,
    ) -> std::result::Result<(), (&'a str, String)> {
        let mut unknown = Vec::new();
        for (key, value) in entries {
            match self.usage(key) {
                Some(Usage::Off) if !is_off(value) => {
                    let problem = format!(
                        "is {value}, which is not implemented: results would differ from those of the program that wrote it"
                    );
                    return Err((key, problem));
                }
                Some(_) => {}
                None => unknown.push(key),
            }
        }
        if !unknown.is_empty() && first_look(path, self) {
            tracing::warn!(
                "{}: nothing is known of {} and it is not obeyed; docs/settings.md lists what is",
                path.display(),
                unknown.join(", ")
            );
        }
        Ok(())
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// Whether this file was not looked at before in this process.
fn first_look(path: &Path, file: SettingsFile) -> bool {
    static SEEN: LazyLock<Mutex<BTreeSet<(PathBuf, u8)>>> = LazyLock::new(Mutex::default);
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert((path.to_path_buf(), file as u8))
}

/// Says once per file what was decided where the file leaves it open.
pub(crate) fn say_once(path: &Path, decision: &str) {
    static SAID: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf()) {
        tracing::warn!("{}: {decision}", path.display());
    }
}

/// The tables of `docs/settings.md`.
pub fn tables() -> String {
    let mut text = String::new();
    for file in SettingsFile::ALL {
        text += &format!("\n## {}\n\n| Keys | What is done | Why |\n|---|---|---|\n", file.name());
        let mut seen = BTreeSet::new();
        for group in file.groups() {
            let keys: Vec<String> =
                group.keys.iter().filter(|key| seen.insert(**key)).map(|key| format!("`{key}`")).collect();
            if !keys.is_empty() {
                text += &format!("| {} | {} | {} |\n", keys.join(", "), group.usage, group.note);
            }
        }
    }
    text
}
