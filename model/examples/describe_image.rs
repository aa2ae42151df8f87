//! Says what is in an image, word by word: `cargo run --release --example describe_image -- MODEL IMAGE [TEMPLATE]`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use vila_engine::CpuBackend;
use vila_model::template::Template;
use vila_model::{GenerateOptions, Vila};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, image, rest @ ..] = arguments.as_slice() else {
        return Err("give a checkpoint directory and an image file".into());
    };
    let template = Template::named(rest.first().map_or("vicuna_v1", String::as_str))?;
    let vila = Vila::load(model.as_ref(), Arc::new(CpuBackend::fast()))?;
    let prompt = template.prompt(&[], "<image>\nDescribe the image.");
    let options =
        GenerateOptions { stop: template.stop().map(String::from).into_iter().collect(), ..Default::default() };
    for token in vila.generate(&prompt, &[PathBuf::from(image)], &options)? {
        print!("{}", token?.text);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
