//! CIDEr-D as in coco-caption: n-grams of one to four tokens, weights by document frequency in the evaluated
//! references, counts clipped, lengths compared.
//!
//! Images are those of the annotation file; each needs exactly one caption among the results.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::{MetricFiles, Report, caption_tokens, mean};
use crate::evaluation::files::{ById, Record, Repeated, join, read_object, read_records};
use crate::evaluation::python::split;
use crate::{Error, Result};

const LONGEST: usize = 4;
/// Of the penalty on lengths, in bigrams.
const SIGMA: f64 = 6.0;

type Gram<'a> = &'a [String];

/// A sentence's n-grams with their counts, and how many bigrams it has.
fn grams(tokens: &[String]) -> BTreeMap<Gram<'_>, f64> {
    let mut counts = BTreeMap::new();
    for n in 1..=LONGEST {
        for gram in tokens.windows(n) {
            *counts.entry(gram).or_insert(0.0) += 1.0;
        }
    }
    counts
}

/// TF-IDF weights of one sentence.
struct Weighted<'a> {
    weights: BTreeMap<Gram<'a>, f64>,
    norms: [f64; LONGEST],
    bigrams: f64,
}

impl<'a> Weighted<'a> {
    fn new(tokens: &'a [String], idf: impl Fn(Gram) -> f64) -> Self {
        let mut weights = grams(tokens);
        let mut squares = [0.0; LONGEST];
        let bigrams = tokens.len().saturating_sub(1) as f64;
        for (gram, weight) in &mut weights {
            *weight *= idf(gram);
            squares[gram.len() - 1] += *weight * *weight;
        }
        Weighted { weights, norms: squares.map(f64::sqrt), bigrams }
    }

    /// Similarity to a reference: mean over the lengths of n-grams.
    fn similarity(&self, reference: &Self) -> f64 {
        let mut sums = [0.0; LONGEST];
        for (gram, weight) in &self.weights {
            let other = reference.weights.get(gram).copied().unwrap_or(0.0);
            sums[gram.len() - 1] += weight.min(other) * other;
        }
        for (n, sum) in sums.iter_mut().enumerate() {
            let norms = self.norms[n] * reference.norms[n];
            if norms != 0.0 {
                *sum /= norms;
            }
        }
        let delta = self.bigrams - reference.bigrams;
        mean(&sums) * (-(delta * delta) / (2.0 * SIGMA * SIGMA)).exp()
    }
}

/// CIDEr-D per image of tokenized captions: a hypothesis and its references each.
pub fn cider_d(images: &[(Vec<String>, Vec<Vec<String>>)]) -> Vec<f64> {
    let mut document_frequency: HashMap<Gram, f64> = HashMap::new();
    for (_, references) in images {
        let of_image: BTreeMap<Gram, f64> = references.iter().flat_map(|reference| grams(reference)).collect();
        for gram in of_image.into_keys() {
            *document_frequency.entry(gram).or_insert(0.0) += 1.0;
        }
    }
    let log_images = (images.len() as f64).ln();
    let idf = |gram: Gram| log_images - document_frequency.get(gram).copied().unwrap_or(0.0).max(1.0).ln();
    let score = |(hypothesis, references): &(Vec<String>, Vec<Vec<String>>)| {
        let hypothesis = Weighted::new(hypothesis, idf);
        let similarity = |reference: &Vec<String>| hypothesis.similarity(&Weighted::new(reference, idf));
        10.0 * mean(&references.iter().map(similarity).collect::<Vec<_>>())
    };
    images.iter().map(score).collect()
}

/// An image of an annotation file and what it says of it.
pub(crate) struct Captioned {
    pub id: String,
    /// The file's entry, if it lists images and this one among them.
    pub image: Option<Record>,
    pub captions: Vec<String>,
}

/// The images that a file lists, then those that only annotations name. The Karpathy splits keep the captions of all splits
/// with their images: of those, `splits`.
pub(crate) fn captioned(file: &Record, splits: &[&str]) -> Result<Vec<Captioned>> {
    let mut all: Vec<Captioned> = Vec::new();
    let mut places = HashMap::new();
    for image in records_or_none(file, "images")? {
        if image.get("split").is_some_and(|of| !splits.iter().any(|split| of == split)) {
            continue;
        }
        let id = image.id(&IMAGE_ID)?;
        let sentences = records_or_none(&image, "sentences")?;
        let captions: Vec<_> = sentences.iter().map(|sentence| sentence.text(&["raw"])).collect::<Result<_>>()?;
        // An image may be listed twice.
        let place = *places.entry(id.clone()).or_insert(all.len());
        if place == all.len() {
            all.push(Captioned { id, image: Some(image), captions: Vec::new() });
        }
        all[place].captions.extend(captions);
    }
    for annotation in records_or_none(file, "annotations")? {
        let id = annotation.id(&["image_id"])?;
        let place = *places.entry(id.clone()).or_insert(all.len());
        if place == all.len() {
            all.push(Captioned { id, image: None, captions: Vec::new() });
        }
        all[place].captions.push(annotation.text(&["caption"])?);
    }
    Ok(all)
}

/// What annotation files call an image's id.
pub(crate) const IMAGE_ID: [&str; 3] = ["id", "cocoid", "imgid"];

fn records_or_none(record: &Record, field: &str) -> Result<Vec<Record>> {
    if record.get(field).is_some() { record.records(field) } else { Ok(Vec::new()) }
}

fn references(file: &Record) -> Result<Vec<(String, Vec<String>)>> {
    let all = captioned(file, &["test"])?;
    if all.iter().all(|image| image.captions.is_empty()) {
        file.any(&["annotations"])?;
    }
    match all.iter().find(|image| image.captions.is_empty()) {
        Some(Captioned { id, .. }) => Err(file.error(&format!("image {id} has no captions; leave it out of `images`"))),
        None => Ok(all.into_iter().map(|image| (image.id, image.captions)).collect()),
    }
}

pub(super) fn report(files: &MetricFiles) -> Result<Report> {
    let results = read_records(&files.predictions, &["annotations"])?;
    let results = results.iter().map(|result| Ok((result.id(&["image_id"])?, result.text(&["caption"])?)));
    let results = ById::new(results.collect::<Result<Vec<_>>>()?, Repeated::Refused, &files.predictions)?;
    let annotations = read_object(&files.references)?;
    let references = ById::new(references(&annotations)?, Repeated::Refused, &files.references)?;
    let joined = join(&results, &references, files.pair())?;
    if joined.is_empty() {
        return Err(Error::Data(format!("{}: there are no images", files.references.display())));
    }
    let tokens = |captions: Vec<&str>| match files.tokenized {
        true => captions.into_iter().map(|caption| split(caption).map(str::to_owned).collect()).collect(),
        false => caption_tokens(&captions),
    };
    // All references in one go and all hypotheses: the tokenizer looks into the next caption.
    let mut of_references =
        tokens(joined.iter().flat_map(|(.., captions)| captions.iter().map(String::as_str)).collect()).into_iter();
    let of_hypotheses: Vec<Vec<String>> = tokens(joined.iter().map(|(_, caption, _)| caption.as_str()).collect());
    let images: Vec<_> = joined
        .iter()
        .zip(of_hypotheses)
        .map(|((.., captions), hypothesis)| (hypothesis, of_references.by_ref().take(captions.len()).collect()))
        .collect();
    let scores = cider_d(&images);
    let per_image: serde_json::Map<String, Value> =
        joined.iter().zip(&scores).map(|((id, ..), score)| (id.to_string(), json!(score))).collect();
    Ok(Report::new("cider", mean(&scores), "mean, about 0 to 10")
        .with("images", scores.len())
        .with("per_image", per_image))
}

#[cfg(test)]
mod tests {
    use super::cider_d;

    fn tokens(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn golden_corpus() {
        let image = |hypothesis: &str, references: &[&str]| {
            (tokens(hypothesis), references.iter().map(|reference| tokens(reference)).collect())
        };
        let scores = cider_d(&[
            image("a dog runs on the grass", &["a dog runs across the grass", "a brown dog running on grass"]),
            image("two cats sleep on a sofa", &["two cats are sleeping on a sofa", "cats on a couch"]),
            image("a man rides a red bike", &["a man rides a bike", "a man riding a red bicycle down the street"]),
        ]);
        let expected = [2.853865245873176, 2.546953976541954, 3.903724064981453];
        assert!(scores.iter().zip(expected).all(|(score, expected)| (score - expected).abs() < 1e-12), "{scores:?}");
        assert_eq!(cider_d(&[image("a dog", &["a dog"])]), [0.0], "one image has no rare words");
    }
}
