//! Which answer about an image is likeliest: `... --example score_answers -- MODEL IMAGE QUESTION ANSWER ANSWER...`.

use std::path::PathBuf;
use std::sync::Arc;

use vila_engine::CpuBackend;
use vila_model::template::Template;
use vila_model::{Vila, score};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, image, question, answers @ ..] = arguments.as_slice() else {
        return Err("give a checkpoint directory, an image file, a question and answers".into());
    };
    let vila = Vila::load(model.as_ref(), Arc::new(CpuBackend::fast()))?;
    let prompt = Template::named("vicuna_v1_nosys")?.prompt(&[], &format!("<image>\n{question}"));
    let mut scores = Vec::new();
    for answer in answers {
        let score = score(&vila, &prompt, &format!(" {answer}"), &[PathBuf::from(image)])?;
        scores.push((score.logprob / score.tokens.len() as f64, answer));
    }
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    scores.iter().for_each(|(mean, answer)| println!("{mean:9.4}  {answer}"));
    Ok(())
}
