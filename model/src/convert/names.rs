//! Names of tensors in the files of each layout (spec section 2), the inverse of the names that are read.

use crate::config::Layout;
use crate::llava;
use crate::weights::{Component, canonical_name};

/// The folder of a tensor in a layout, and its name there as other programs write it.
pub(super) fn usual(layout: Layout, canonical: &str) -> (&'static str, String) {
    match layout {
        Layout::Vila => {
            let own = Component::ALL.into_iter().find_map(|part| Some((part.folder(), part.local_name(canonical)?)));
            let (folder, name) = own.unwrap_or((Component::Llm.folder(), canonical));
            (folder, name.to_string())
        }
        Layout::Llava => ("", llava_name(canonical)),
        Layout::LlavaHf => ("", llava_hf_name(canonical)),
    }
}

/// The canonical name under which a name in a layout's folder is read.
pub(super) fn read(layout: Layout, folder: &str, name: &str) -> String {
    match (layout, folder) {
        (Layout::LlavaHf, _) => canonical_name(name),
        (Layout::Llava, _) => llava::canonical_name(name),
        (Layout::Vila, "vision_tower") => llava::tower_name(name),
        (Layout::Vila, "mm_projector") => llava::projector_name(name),
        (Layout::Vila, _) => format!("llm.{name}"),
    }
}

fn llava_name(canonical: &str) -> String {
    match canonical.split_once('.') {
        Some(("llm", rest)) => rest.to_string(),
        Some(("vision_tower", rest)) => format!("model.vision_tower.vision_tower.{rest}"),
        Some(("mm_projector", rest)) => format!("model.mm_projector.{}", rest.strip_prefix("layers.").unwrap_or(rest)),
        _ => canonical.to_string(),
    }
}

fn llava_hf_name(canonical: &str) -> String {
    if let Some(rest) = canonical.strip_prefix("llm.") {
        return format!("language_model.{rest}");
    }
    let linear = || {
        let (index, field) = canonical.strip_prefix("mm_projector.layers.")?.split_once('.')?;
        let index = index.parse::<usize>().ok().filter(|index| index.is_multiple_of(2))?;
        Some(format!("multi_modal_projector.linear_{}.{field}", index / 2 + 1))
    };
    linear().unwrap_or_else(|| canonical.to_string())
}
