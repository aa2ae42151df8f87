//! Fields that hold pictures, sound or film: content that nobody may pass over in silence.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::error::Problem;

/// What such fields are called in public corpora.
const MEDIA: [&str; 33] = [
    "image",
    "images",
    "image_path",
    "image_paths",
    "image_file",
    "image_files",
    "image_list",
    "image_base64",
    "image_base64_str",
    "image_bytes",
    "img",
    "imgs",
    "img_path",
    "image_urls",
    "picture",
    "pictures",
    "photo",
    "photos",
    "frame",
    "frames",
    "video",
    "videos",
    "video_path",
    "video_paths",
    "video_file",
    "audio",
    "audios",
    "audio_path",
    "speech",
    "sound",
    "sounds",
    "point_cloud",
    "media",
];

/// Lists whose objects are looked into.
const LISTS: [&str; 2] = ["conversations", "image_info"];

/// Refuses a record that carries content in a field other than those that its format `reads`.
pub(super) fn check(json: &[u8], format: &'static str, reads: &[&str]) -> Result<(), Problem> {
    // What is no record says so when it is parsed.
    let Ok(Carried(fields)) = crate::records::parse(json) else { return Ok(()) };
    match fields.into_iter().find(|field| !reads.contains(&field.as_str())) {
        Some(field) => Err(Problem::UnreadField { field, format }),
        None => Ok(()),
    }
}

/// Names of the media fields of a record that are not empty.
struct Carried(Vec<String>);

impl<'de> Deserialize<'de> for Carried {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Fields { look_into: true }).map(Carried)
    }
}

/// Fields of an object, or of the objects of a list.
struct Fields {
    look_into: bool,
}

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if MEDIA.contains(&name.as_str()) {
                if !is_empty(&map.next_value()?) {
                    found.push(name);
                }
            } else if self.look_into && LISTS.contains(&name.as_str()) {
                found.extend(map.next_value::<Inner>()?.0.into_iter().map(|field| format!("{name}[].{field}")));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(Inner(fields)) = list.next_element()? {
            found.extend(fields);
        }
        Ok(found)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }
}

struct Inner(Vec<String>);

impl<'de> Deserialize<'de> for Inner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Fields { look_into: false }).map(Inner)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_empty),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// One image name, several, or none.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Names {
    /// A name.
    One(String),
    /// A list of names.
    Many(Vec<String>),
}

impl Names {
    /// The names under `image` and `images`, of which a record uses one.
    pub(super) fn of(image: Option<Self>, images: Option<Self>) -> Result<Vec<String>, Problem> {
        let list = |names: Option<Self>| match names {
            None => Vec::new(),
            Some(Self::One(name)) if name.is_empty() => Vec::new(),
            Some(Self::One(name)) => vec![name],
            Some(Self::Many(names)) => names,
        };
        let (image, images) = (list(image), list(images));
        match (image.is_empty(), images.is_empty()) {
            (false, false) if image != images => Err(Problem::TwoFields { fields: ["image", "images"] }),
            (true, _) => Ok(images),
            (false, _) => Ok(image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_named_wherever_it_stands() {
        let found = |json: &str| match check(json.as_bytes(), "llava", &["image"]) {
            Err(Problem::UnreadField { field, .. }) => field,
            other => format!("{other:?}"),
        };
        assert_eq!(found(r#"{"image": "a", "video": "b.mp4"}"#), "video");
        assert_eq!(found(r#"{"conversations": [{"from": "human"}, {"image": "a"}]}"#), "conversations[].image");
        for none in [r#"{"image": "a", "video": null, "audio": [], "frames": [""]}"#, r#"{"id": 1, "x": {"video": 1}}"#]
        {
            assert_eq!(found(none), "Ok(())", "{none}");
        }
    }

    #[test]
    fn two_fields_must_agree() {
        let one = |name: &str| Some(Names::One(name.to_owned()));
        assert_eq!(Names::of(one("a"), Some(Names::Many(vec!["a".into()]))).unwrap(), ["a"]);
        assert_eq!(Names::of(one(""), one("b")).unwrap(), ["b"]);
        assert!(matches!(Names::of(one("a"), one("b")), Err(Problem::TwoFields { .. })));
    }
}
