//! Labels an image after labelled examples: `... --example label_from_examples -- MODEL IMAGE=LABEL... IMAGE`.

use std::path::PathBuf;
use std::sync::Arc;

use vila_engine::CpuBackend;
use vila_model::{GenerateOptions, Vila};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("give a checkpoint directory, IMAGE=LABEL examples and an image")?;
    let (mut prompt, mut images) = (String::new(), Vec::new());
    for argument in arguments {
        let (image, label) = argument.rsplit_once('=').unwrap_or((&argument, ""));
        images.push(PathBuf::from(image));
        prompt += if label.is_empty() { "<image>".into() } else { format!("<image> {label} , ") }.as_str();
    }
    let vila = Vila::load(model.as_ref(), Arc::new(CpuBackend::fast()))?;
    let options = GenerateOptions { max_new_tokens: 16, stop: vec![",".into(), "\n".into()], ..Default::default() };
    println!("{}", vila.generate(&prompt, &images, &options)?.finish()?.text.trim());
    Ok(())
}
