//! MMC4: interleaved documents, an object each.

use serde::Deserialize;

use super::super::tokens::IMAGE_MARK;
use super::document::{Document, DocumentEnd, Parsed};
use super::error::Problem;
use super::options::{Layout, LossScope};

/// What `<image>` in web text becomes, so that it is not taken for an image.
const NEUTRAL_MARK: &str = "<IMAGE>";

/// Key under which documents without images are counted.
const WITHOUT_IMAGES: &str = "without_images";

/// The fields that matter of one record.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    text_list: Vec<String>,
    image_info: Option<Vec<ImageInfo>>,
}

#[derive(Debug, Deserialize)]
struct ImageInfo {
    image_name: String,
    matched_text_index: i64,
}

/// How records become documents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) layout: Layout,
    pub(super) loss_scope: LossScope,
    pub(super) max_images: Option<usize>,
}

/// An image and the sentence it stands before.
struct Placed {
    name: String,
    sentence: usize,
}

/// Text that came from elsewhere, safe to stand next to real image marks.
pub(super) fn neutralise(text: &str) -> String {
    text.replace(IMAGE_MARK, NEUTRAL_MARK)
}

/// The documents of one record; none if it has no images.
pub(super) fn parse(record: Record, rules: Rules) -> Result<Parsed, Problem> {
    let sentences: Vec<String> = record.text_list.iter().map(|sentence| neutralise(sentence)).collect();
    let infos = record.image_info.unwrap_or_default().into_iter();
    let placed = infos.take(rules.max_images.unwrap_or(usize::MAX)).map(|info| place(info, sentences.len()));
    if rules.layout == Layout::Pairs {
        let pair = |image: Placed| {
            let own = &sentences[image.sentence..=image.sentence];
            interleave(own, vec![Placed { sentence: 0, ..image }], rules.loss_scope)
        };
        return Ok(parsed(placed.map(|image| image.map(pair)).collect()));
    }
    let mut images = placed.collect::<Result<Vec<Placed>, _>>()?;
    if images.is_empty() {
        return Ok(parsed(Vec::new()));
    }
    images.sort_by_key(|image| image.sentence);
    if rules.layout == Layout::ImagesFirst {
        images.iter_mut().for_each(|image| image.sentence = 0);
    }
    Ok(parsed(vec![Ok(interleave(&sentences, images, rules.loss_scope))]))
}

fn parsed(documents: Vec<Result<Document, Problem>>) -> Parsed {
    let notes = if documents.is_empty() { vec![WITHOUT_IMAGES] } else { Vec::new() };
    Parsed { documents, notes }
}

/// An image with a sentence that exists.
fn place(info: ImageInfo, sentences: usize) -> Result<Placed, Problem> {
    match usize::try_from(info.matched_text_index) {
        Ok(sentence) if sentence < sentences => Ok(Placed { name: info.image_name, sentence }),
        _ => Err(Problem::SentenceIndex { image: info.image_name, index: info.matched_text_index, sentences }),
    }
}

/// Sentences joined by spaces, each image before its sentence without spaces around it. `images` are in sentence order.
fn interleave(sentences: &[String], images: Vec<Placed>, scope: LossScope) -> Document {
    let mut document = Document::default();
    let mut coming = images.into_iter().peekable();
    let mut last_follows = false;
    for (index, sentence) in sentences.iter().enumerate() {
        let text = &mut document.text;
        if index > 0 && !text.ends_with(IMAGE_MARK) {
            text.push(' ');
        }
        last_follows = coming.peek().is_some_and(|image| image.sentence == index);
        if last_follows && text.ends_with(' ') {
            text.pop();
        }
        while let Some(image) = coming.next_if(|image| image.sentence == index) {
            text.push_str(IMAGE_MARK);
            document.images.push(image.name);
        }
        let start = text.len();
        text.push_str(if text.ends_with(IMAGE_MARK) {
            sentence.strip_prefix(' ').unwrap_or(sentence)
        } else {
            sentence
        });
        if last_follows {
            document.trained.push(start..text.len());
        }
    }
    document.end = match scope {
        LossScope::ImageFollowingTextOnly if !last_follows => DocumentEnd::Closed,
        _ => DocumentEnd::ClosedAndTrained,
    };
    if scope == LossScope::AllText {
        let whole = 0..document.text.len();
        document.trained = vec![whole];
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(record: Record, rules: Rules) -> Result<Vec<Document>, Problem> {
        parse(record, rules)?.documents.into_iter().collect()
    }

    fn record(sentences: &[&str], matched: &[i64]) -> Record {
        let info = |(n, &index): (usize, &i64)| ImageInfo { image_name: format!("i{n}"), matched_text_index: index };
        Record {
            text_list: sentences.iter().map(|&s| s.to_owned()).collect(),
            image_info: Some(matched.iter().enumerate().map(info).collect()),
        }
    }

    fn rules(layout: Layout) -> Rules {
        Rules { layout, loss_scope: LossScope::AllText, max_images: Some(6) }
    }

    #[test]
    fn the_layouts_of_the_specification() {
        let made = |matched: &[i64], layout| documents(record(&["s0", "s1", "s2"], matched), rules(layout)).unwrap();
        let native = made(&[2, 0], Layout::Native);
        assert_eq!(native[0].text, "<image>s0 s1<image>s2");
        assert_eq!(native[0].images, ["i1", "i0"]);
        assert_eq!(native[0].trained.first(), Some(&(0..21)));
        assert_eq!(native[0].end, DocumentEnd::ClosedAndTrained);
        assert_eq!(made(&[1, 1], Layout::Native)[0].text, "s0<image><image>s1 s2");
        let first = made(&[2, 0], Layout::ImagesFirst);
        assert_eq!((first[0].text.as_str(), &first[0].images), ("<image><image>s0 s1 s2", &native[0].images));
        let pairs: Vec<_> = made(&[2, 0], Layout::Pairs).into_iter().map(|d| (d.text, d.images)).collect();
        assert_eq!(
            pairs,
            [("<image>s2".to_owned(), vec!["i0".to_owned()]), ("<image>s0".to_owned(), vec!["i1".to_owned()])]
        );
    }

    #[test]
    fn only_text_after_images_is_learned_on_request() {
        let rules = Rules { loss_scope: LossScope::ImageFollowingTextOnly, ..rules(Layout::Native) };
        let learned = |matched: &[i64]| {
            let document = documents(record(&["s0", "s1", "s2"], matched), rules).unwrap().remove(0);
            let spans: Vec<_> = document.trained.iter().map(|range| document.text[range.clone()].to_owned()).collect();
            (spans, document.end)
        };
        assert_eq!(learned(&[1]), (vec!["s1".to_owned()], DocumentEnd::Closed));
        assert_eq!(learned(&[0, 2]), (vec!["s0".to_owned(), "s2".to_owned()], DocumentEnd::ClosedAndTrained));
    }

    #[test]
    fn a_pair_without_sentence_leaves_the_others() {
        let parsed = parse(record(&["s0", "s1"], &[1, 7, 0]), rules(Layout::Pairs)).unwrap();
        let texts: Vec<_> =
            parsed.documents.iter().map(|document| document.as_ref().map(|document| &*document.text)).collect();
        assert!(
            matches!(texts[..], [Ok("<image>s1"), Err(Problem::SentenceIndex { index: 7, .. }), Ok("<image>s0")]),
            "{texts:?}"
        );
    }

    #[test]
    fn debris_limits_and_bad_indices() {
        let debris = documents(record(&["an <image> tag", ""], &[0, 1]), rules(Layout::Native)).unwrap();
        assert_eq!(debris[0].text, "<image>an <IMAGE> tag<image>");
        let many = documents(record(&["a"], &[0; 9]), rules(Layout::Native)).unwrap();
        assert_eq!(many[0].images, ["i0", "i1", "i2", "i3", "i4", "i5"]);
        assert!(documents(record(&["a"], &[]), rules(Layout::Native)).unwrap().is_empty());
        for index in [-1, 1, i64::MAX] {
            let error = documents(record(&["a"], &[index]), rules(Layout::Native)).unwrap_err();
            assert!(matches!(error, Problem::SentenceIndex { sentences: 1, .. }), "{error}");
        }
    }
}
