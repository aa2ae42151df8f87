//! Configuration files of each layout. Fields that this program does not know are kept.

use serde_json::{Map, Value, json};

use super::json_bytes;
use super::source::Source;
use super::vocabulary::{ADDED, Change};
use crate::config::{Layout, ProjectorKind, TEMPLATE, VilaConfig, VisionFamily, template_json};
use crate::image::GeometryMode;
use crate::{Error, Result};

/// Says why a layout cannot express a model.
pub(super) fn check(source: &Source, to: Layout) -> Result<()> {
    let VilaConfig { projector, .. } = &source.config;
    let refuse = |field: &str, problem: String| {
        Err(Error::Config { path: source.dir.join("config.json"), field: field.into(), problem })
    };
    if source.config.lora.is_some() {
        let problem =
            "the checkpoint has adapters beside its weights; merge them first: `vila lora merge --model DIR --to DIR`";
        return refuse("lora", problem.into());
    }
    if source.config.expert.is_some() {
        let problem = "no layout but the folder as it is has a visual expert; copy the folder, or train without one";
        return refuse("visual_expert", problem.into());
    }
    let name = projector.kind.name();
    match (to, projector.kind) {
        (Layout::LlavaHf, ProjectorKind::Mlp { depth: 2 }) | (Layout::Vila, _) => {}
        (Layout::Llava, ProjectorKind::Linear | ProjectorKind::Mlp { .. }) => {}
        (Layout::LlavaHf, _) => {
            let problem = format!(
                "is {name}; llava-hf has a projector of two linear layers (mlp2x_gelu) alone: convert to vila, or train \
                 with that projector"
            );
            return refuse("mm_projector_type", problem);
        }
        (Layout::Llava, _) => {
            let problem = format!("is {name}; the llava layout knows linear and mlp projectors alone: convert to vila");
            return refuse("mm_projector_type", problem);
        }
    }
    if to == Layout::LlavaHf && !source.processor.is_whole_in_json() {
        let problem = "is resize over a processor that resizes once more, which llava-hf has no key for: convert to vila, or \
                       set it to square or pad if the model was trained so";
        return refuse("image_aspect_ratio", problem.into());
    }
    Ok(())
}

/// Paths in the new directory, and contents.
pub(super) fn files(source: &Source, vocabulary: &Change, to: Layout) -> Vec<(String, Vec<u8>)> {
    let mut config = source.config.clone();
    config.llm.vocab_size = vocabulary.vocab_size;
    config.image_token = vocabulary.image;
    let new = New { source, vocabulary, config, to };
    let files = match to {
        Layout::Vila => new.vila(),
        Layout::Llava => new.llava(),
        Layout::LlavaHf => new.llava_hf(),
    };
    files.into_iter().map(|(name, value)| (name.to_string(), json_bytes(&value))).collect()
}

struct New<'a> {
    source: &'a Source,
    vocabulary: &'a Change,
    config: VilaConfig,
    to: Layout,
}

impl New<'_> {
    fn vila(mut self) -> Vec<(&'static str, Value)> {
        let preprocessor = self.preprocessor();
        let root = over(self.base(), self.config.to_json());
        let dtype = json!({"model_dtype": format!("torch.{}", self.source.dtype("llm."))});
        let projector = json!({"architectures": ["MultimodalProjector"]});
        vec![
            ("config.json", over(object(root), dtype)),
            ("llm/config.json", Value::Object(self.llm())),
            ("vision_tower/config.json", self.tower()),
            ("vision_tower/preprocessor_config.json", preprocessor),
            ("mm_projector/config.json", over(object(projector), self.config.projector_json())),
        ]
    }

    fn llava(mut self) -> Vec<(&'static str, Value)> {
        let preprocessor = self.preprocessor();
        let base = self.base();
        let kept = ["model_type", "mm_vision_tower"].map(|field| (field, base.get(field).cloned()));
        let mut root = base;
        root.extend(self.llm());
        let shared = object(self.config.to_json()).into_iter();
        root.extend(
            shared.filter(|(field, _)| field == TEMPLATE || field.starts_with("mm_") && !field.ends_with("_cfg")),
        );
        let whole = json!({
            "model_type": "llava_llama",
            "architectures": ["LlavaLlamaForCausalLM"],
            "mm_projector_type": self.config.projector.kind.name(),
            "use_mm_proj": true,
            "image_token_id": self.config.image_token,
            "image_aspect_ratio": self.config.aspect.map(GeometryMode::name),
            "mm_vision_tower": "vision_tower",
        });
        let mut root = object(over(root, whole));
        root.extend(kept.into_iter().filter_map(|(field, value)| Some((field.to_string(), value?))));
        vec![
            ("config.json", Value::Object(root)),
            ("preprocessor_config.json", preprocessor.clone()),
            ("vision_tower/config.json", self.tower()),
            ("vision_tower/preprocessor_config.json", preprocessor),
        ]
    }

    fn llava_hf(self) -> Vec<(&'static str, Value)> {
        let VilaConfig { llm, vision, projector, .. } = &self.config;
        let base = self.base();
        let strategy = if vision.drop_class { "default" } else { "full" };
        let root = json!({
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "text_config": self.llm(),
            "vision_config": self.vision(),
            "image_token_index": self.config.image_token,
            "image_seq_length": self.config.tokens_per_image(),
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": projector.bias,
            "vision_feature_layer": vision.select_layer,
            "vision_feature_select_strategy": strategy,
            "tie_word_embeddings": llm.tied,
            "torch_dtype": self.source.dtype("llm."),
        });
        let mut root = object(over(base, root));
        if let Some(template) = &self.config.template {
            root.insert(TEMPLATE.into(), template_json(template));
        }
        if let Some(note) = self.vocabulary.note() {
            root.insert(ADDED.into(), note);
        }
        let pad = self.vocabulary.tokens.iter().find(|(_, token)| *token == "<pad>");
        root.extend(pad.map(|(id, _)| ("pad_token_id".to_string(), json!(id))));
        let mut preprocessor = object(self.source.processor.to_json());
        preprocessor.insert("processor_class".into(), json!("LlavaProcessor"));
        let processor = json!({
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": vision.patch_size,
            "num_additional_image_tokens": u8::from(vision.has_class()),
            "vision_feature_select_strategy": strategy,
        });
        vec![
            ("config.json", Value::Object(root)),
            ("preprocessor_config.json", Value::Object(preprocessor)),
            ("processor_config.json", processor),
        ]
    }

    /// Fields of the whole model's configuration as the directory had them when it was of this layout.
    fn base(&self) -> Map<String, Value> {
        let mut base = match self.source.record.of(self.to) {
            _ if self.source.layout == self.to => self.source.root.clone(),
            Some(entry) => entry.config.clone(),
            None => Map::new(),
        };
        // Other versions' names of what is written.
        ["dtype", "rope_parameters", "image_token_id"].iter().for_each(|field| drop(base.remove(*field)));
        base
    }

    fn llm(&self) -> Map<String, Value> {
        let mut llm = self.source.llm.clone();
        // Other names of what follows.
        ["rope_parameters", "dtype"].iter().for_each(|field| drop(llm.remove(*field)));
        let mut new = object(self.config.llm.to_json());
        let hints = ["model_max_length", "tokenizer_model_max_length", "tokenizer_padding_side"];
        hints.iter().filter(|hint| llm.contains_key(**hint)).for_each(|hint| drop(new.remove(*hint)));
        new.insert("torch_dtype".into(), json!(self.source.dtype("llm.")));
        llm.extend(new);
        llm
    }

    /// The tower's configuration, with whatever else its folder had.
    fn tower(&self) -> Value {
        let kept = self.source.record.of(self.to).map(|entry| &entry.tower).filter(|tower| !tower.is_empty());
        let whole = kept.or(Some(&self.source.tower).filter(|tower| tower.contains_key("vision_config")));
        whole.map_or_else(|| Value::Object(self.vision()), |whole| Value::Object(whole.clone()))
    }

    /// The vision model's configuration.
    fn vision(&self) -> Map<String, Value> {
        let tower = &self.source.tower;
        let mut vision = tower.get("vision_config").and_then(Value::as_object).unwrap_or(tower).clone();
        vision.remove("dtype");
        let mut new = object(self.config.vision.to_json());
        new.insert("torch_dtype".into(), json!(self.source.dtype("vision_tower.")));
        if self.config.vision.family == VisionFamily::Siglip {
            let head = self.source.checkpoint.stored("vision_tower.vision_model.head.probe").is_some();
            new.insert("vision_use_head".into(), json!(head));
        }
        vision.extend(new);
        vision
    }

    /// The image processor's file; how images become square stands in the model's configuration, too.
    fn preprocessor(&mut self) -> Value {
        let processor = self.source.processor.clone();
        self.config.aspect = Some(processor.mode());
        processor.without_mode().to_json()
    }
}

/// `base` with the fields of `new` in place of its own.
fn over(mut base: Map<String, Value>, new: Value) -> Value {
    base.extend(object(new));
    Value::Object(base)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
