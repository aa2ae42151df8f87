use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use vila_model::VilaConfig;
use vila_model::weights::Checkpoint;
use vila_model::{Error, VilaModel};

use super::{Failure, Outcome, print, print_json};

#[derive(Args)]
pub(super) struct InspectArguments {
    /// A checkpoint directory.
    dir: PathBuf,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn inspect(arguments: &InspectArguments) -> Result<Outcome, Failure> {
    let facts = facts(arguments)?;
    if arguments.json {
        print_json(&facts)?;
    } else {
        print(&text(&facts))?;
    }
    Ok(Outcome::Done)
}

fn facts(arguments: &InspectArguments) -> Result<Value, Failure> {
    let (config, layout) = VilaConfig::read(&arguments.dir)?;
    let checkpoint = Checkpoint::open(&arguments.dir, layout)?.tying(config.llm.tied);
    let mut dtypes = serde_json::Map::new();
    let (mut count, mut elements) = (0u64, 0usize);
    for (_, dtype, shape) in checkpoint.tensors() {
        count += 1;
        elements += shape.iter().product::<usize>();
        let entry = dtypes.entry(format!("{dtype:?}")).or_insert(json!(0));
        *entry = json!(entry.as_u64().unwrap_or(0) + 1);
    }
    let problems = match checkpoint.check(&VilaModel::specs(&config)) {
        Ok(()) => Value::Null,
        Err(Error::Weights { problems, .. }) => json!(problems),
        Err(error) => return Err(error.into()),
    };
    let mut facts = json!({
        "layout": layout.name(),
        "llm": config.llm.to_json(),
        "vision": config.vision.to_json(),
        "projector": config.projector.kind.name(),
        "token_order": config.projector.kind.token_order(),
        "visual_expert": config.expert.is_some(),
        "lora": config.lora.as_ref().map(|lora| json!({
            "rank": lora.rank,
            "targets": lora.targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
        })),
        "template": config.template.as_ref().map(|template| template.name()),
        "select_layer": config.vision.select_layer,
        "tokens_per_image": config.tokens_per_image(),
        "tensors": count,
        "parameters": elements,
        "dtypes": dtypes,
        "problems": problems,
    });
    if arguments.tensors {
        let list = checkpoint.tensors().map(|(name, dtype, shape)| json!([name, format!("{dtype:?}"), shape]));
        facts["list"] = list.collect();
    }
    Ok(facts)
}

fn text(facts: &Value) -> String {
    let size = |part: &str, field: &str| facts[part][field].to_string();
    let mut text = format!(
        "layout      {}\ndecoder     width {}, {} layers, {} heads ({} for keys), vocabulary {}, context {}\n\
         vision      {} width {}, {} layers, image {}, patch {}, state {}\nprojector   {}, {} tokens per image\n\
         tensors     {} with {} elements: {}\n",
        facts["layout"].as_str().unwrap_or_default(),
        size("llm", "hidden_size"),
        size("llm", "num_hidden_layers"),
        size("llm", "num_attention_heads"),
        size("llm", "num_key_value_heads"),
        size("llm", "vocab_size"),
        size("llm", "max_position_embeddings"),
        facts["vision"]["model_type"].as_str().unwrap_or_default(),
        size("vision", "hidden_size"),
        size("vision", "num_hidden_layers"),
        size("vision", "image_size"),
        size("vision", "patch_size"),
        facts["select_layer"],
        facts["projector"].as_str().unwrap_or_default(),
        facts["tokens_per_image"],
        facts["tensors"],
        facts["parameters"],
        facts["dtypes"]
    );
    if let Some(order) = facts["token_order"].as_str() {
        text += &format!("merged      tokens by {order}\n");
    }
    if facts["visual_expert"] == true {
        text += "expert      its own weights for positions of images\n";
    }
    if let Some(rank) = facts["lora"].get("rank") {
        text += &format!("adapters    rank {rank}, beside {}\n", facts["lora"]["targets"]);
    }
    if let Some(template) = facts["template"].as_str() {
        text += &format!("template    {template}\n");
    }
    match facts["problems"].as_str() {
        None => text += "weights     complete\n",
        Some(problems) => text += &format!("weights     do not fit the configuration:\n{problems}\n"),
    }
    for tensor in facts["list"].as_array().into_iter().flatten() {
        text += &format!(
            "{:<70} {:<6} {}\n",
            tensor[0].as_str().unwrap_or_default(),
            tensor[1].as_str().unwrap_or_default(),
            tensor[2]
        );
    }
    text
}
