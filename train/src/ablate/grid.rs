//! The cells of the grid: the base recipe, `recipes/ablate-toy.toml`, with a few keys changed.

/// The recipe that every cell changes.
pub(super) const BASE: &str = include_str!("../../../recipes/ablate-toy.toml");

/// One row of the paper's tables, small.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Its name in files and on the command line.
    pub name: &'static str,
    /// What it is, for people.
    pub label: &'static str,
    /// `key=value` overrides of the base.
    pub sets: &'static [&'static str],
    /// Stages that it leaves out.
    pub without: &'static [&'static str],
}

const fn cell(name: &'static str, label: &'static str, sets: &'static [&'static str]) -> Cell {
    Cell { name, label, sets, without: &[] }
}

const FROZEN_PRETRAIN: &str = "stage.pretrain.train=[\"projector\"]";
const FROZEN_SFT: &str = "stage.sft.train=[\"projector\"]";
const VISUAL_SFT: &str = "stage.sft.data={ visual = 1.0 }";
const PAIRS: [&str; 2] = ["stage.pretrain.data={ pairs = 1.0 }", "stage.pretrain.documents=108"];
const MMC4_PAIRS: [&str; 2] = ["stage.pretrain.data={ mmc4-pairs = 1.0 }", "stage.pretrain.documents=108"];
const MIX: [&str; 2] = ["stage.pretrain.data={ interleaved = 0.6, pairs = 0.4 }", "stage.pretrain.documents=30"];
const IMAGES_FIRST: &str = "stage.pretrain.data={ images-first = 1.0 }";
const LOW_RESOLUTION: [&str; 2] = ["model.vision.image_size=4", "model.vision.patch_size=2"];
const SMALL_PATCHES: &str = "model.vision.patch_size=4";

/// Every cell, the base first. Those that share their first stages follow one another.
pub const CELLS: &[Cell] = &[
    cell("base", "interleaved data, LLM trained, joint SFT", &[]),
    cell("frozen-pretrain", "LLM frozen in pre-training", &[FROZEN_PRETRAIN]),
    cell("frozen-both", "projector alone in pre-training and SFT", &[FROZEN_PRETRAIN, FROZEN_SFT]),
    cell("base-visual", "interleaved data, visual SFT alone", &[VISUAL_SFT]),
    cell(
        "worded",
        "joint SFT, half of its text in visual wording",
        &["stage.sft.data={ visual = 0.7, chat = 0.15, worded = 0.15 }"],
    ),
    cell("pairs-visual", "image-text pairs, visual SFT alone", &[PAIRS[0], PAIRS[1], VISUAL_SFT]),
    cell(
        "mmc4-pairs-visual",
        "pairs cut out of interleaved data, visual SFT alone",
        &[MMC4_PAIRS[0], MMC4_PAIRS[1], VISUAL_SFT],
    ),
    cell("mix", "interleaved data and pairs, joint SFT", &MIX),
    cell("mix-visual", "interleaved data and pairs, visual SFT alone", &[MIX[0], MIX[1], VISUAL_SFT]),
    cell("images-first", "interleaved data with all images in front", &[IMAGES_FIRST]),
    cell(
        "lora",
        "LoRA of rank 8 and the projector in SFT",
        &[
            "model.lora={ rank = 8, alpha = 16.0, dropout = 0.0 }",
            "stage.sft.train=[\"projector\", \"lora\"]",
            "stage.sft.lr=2e-3",
        ],
    ),
    cell(
        "visual-expert",
        "experts and projector in pre-training, all in SFT",
        &[
            "model.visual_expert=true",
            "stage.pretrain.train=[\"projector\", \"expert\"]",
            "stage.sft.train=[\"projector\", \"llm\", \"expert\"]",
        ],
    ),
    Cell { name: "no-pretrain", label: "no second stage", sets: &[], without: &["pretrain"] },
    cell("transformer", "transformer projector, LLM trained", &["model.projector=transformer"]),
    cell(
        "transformer-frozen",
        "transformer projector, LLM frozen in pre-training",
        &["model.projector=transformer", FROZEN_PRETRAIN],
    ),
    cell("mlp2x-gelu", "two-layer projector, LLM trained", &["model.projector=mlp2x_gelu"]),
    Cell {
        name: "low-resolution",
        label: "4x4 pixels, 4 tokens, linear, no second stage",
        sets: &LOW_RESOLUTION,
        without: &["pretrain"],
    },
    Cell {
        name: "many-tokens",
        label: "16x16 pixels, 16 tokens, linear, no second stage",
        sets: &[SMALL_PATCHES],
        without: &["pretrain"],
    },
    Cell {
        name: "downsample",
        label: "16x16 pixels, 16 tokens merged to 4, no second stage",
        sets: &[SMALL_PATCHES, "model.projector=downsample"],
        without: &["pretrain"],
    },
];
