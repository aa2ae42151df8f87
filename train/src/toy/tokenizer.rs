//! The tokenizer of the toy world: one token per word, trained on the corpora.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::wordlevel::{WordLevel, WordLevelTrainer};
use tokenizers::normalizers::utils::Lowercase;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::error::{ToyError, io_at};

/// The special tokens; a token's place is its id.
const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<image>"];

/// What conversation templates write around questions and answers.
const TEMPLATE_WORDS: &str = "USER: ASSISTANT:";

/// Trains a word-level tokenizer on corpus files in the public formats and saves it as `out` (a `tokenizer.json`).
///
/// Text is lower-cased and split at blanks and around punctuation. Ids are `<unk>` 0, `<s>` 1, `</s>` 2, `<image>` 3,
/// then words by falling frequency and the alphabet. Decoding joins words with single spaces.
///
/// # Errors
/// A file cannot be read or is no corpus, or the tokenizer cannot be saved.
pub fn train_tokenizer(files: &[PathBuf], out: impl AsRef<Path>) -> Result<(), ToyError> {
    let mut texts = vec![TEMPLATE_WORDS.to_owned()];
    for file in files {
        collect_texts(file, &mut texts)?;
    }
    let tokenizer = trained(texts).map_err(|error| ToyError::Tokenizer { reason: error.to_string() })?;
    let json = tokenizer.to_string(true).map_err(|error| ToyError::Tokenizer { reason: error.to_string() })?;
    vila_files::write(out.as_ref(), json.as_bytes()).map_err(io_at(out.as_ref(), "write the tokenizer"))
}

fn trained(texts: Vec<String>) -> tokenizers::Result<Tokenizer> {
    let special: Vec<AddedToken> = SPECIAL.iter().map(|&token| AddedToken::from(token, true)).collect();
    let model = WordLevel::builder().unk_token(SPECIAL[0].to_owned()).build()?;
    let pieces: Vec<PreTokenizerWrapper> =
        vec![WhitespaceSplit.into(), Punctuation::new(SplitDelimiterBehavior::Isolated).into()];
    let begin = TemplateProcessing::builder().try_single("<s> $A")?.special_tokens(vec![("<s>", 1)]).build()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(Lowercase));
    tokenizer.with_pre_tokenizer(Some(Sequence::new(pieces)));
    tokenizer.with_post_processor(Some(begin));
    let trainer =
        WordLevelTrainer::builder().vocab_size(usize::MAX).show_progress(false).special_tokens(special).build()?;
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.into_iter())?;
    Ok(tokenizer)
}

/// Appends every text of a corpus file, without the marks that are tokens of their own.
fn collect_texts(file: &Path, texts: &mut Vec<String>) -> Result<(), ToyError> {
    let content = fs::read_to_string(file).map_err(io_at(file, "read the corpus"))?;
    let unreadable = |error: serde_json::Error| ToyError::Tokenizer { reason: format!("{}: {error}", file.display()) };
    let records: Vec<Value> = if content.trim_start().starts_with('[') {
        serde_json::from_str(&content).map_err(unreadable)?
    } else {
        let lines = content.lines().filter(|line| !line.trim().is_empty());
        lines.map(serde_json::from_str).collect::<Result<_, _>>().map_err(unreadable)?
    };
    let found = records.iter().flat_map(texts_of);
    texts.extend(found.map(|text| SPECIAL.iter().fold(text.to_owned(), |text, mark| text.replace(mark, " "))));
    Ok(())
}

/// The texts of one record of any of the formats.
fn texts_of(record: &Value) -> Vec<&str> {
    let listed = |field: &str| record[field].as_array().map_or(&[][..], Vec::as_slice);
    let single = ["text", "caption"].into_iter().filter_map(|field| record[field].as_str());
    let sentences = listed("text_list").iter().filter_map(Value::as_str);
    let turns = listed("conversations").iter().filter_map(|turn| turn["value"].as_str());
    single.chain(sentences).chain(turns).collect()
}
