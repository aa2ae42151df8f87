//! The visual expert (CogVLM; spec 6.2): in every decoder block a second set of query, key, value and MLP weights that
//! positions of images go through. Attention is joint; norms, output projection, embeddings and head are shared.

use vila_autograd::{ParamPart, ParamSpec, ParamStore, Tape, Var};
use vila_engine::ops::Copy;
use vila_engine::{Backend, NO_ROW, Result, Tensor};

use crate::PackedBatch;
use crate::config::VilaConfig;
use crate::llama::{self, Linear};

/// What the names of the experts' parameters start with, in place of `llm.model.`: the folder that they are saved in.
const PREFIX: &str = "visual_expert.";
const BASE: &str = "llm.model.";

/// Options of the visual expert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertConfig {
    /// Whether the last position of each run of images goes through the language weights, as in CogVLM's code.
    pub last_as_text: bool,
}

/// Parameters of the experts: those of the decoder's blocks that have a copy, under their own names.
pub(crate) fn specs(config: &VilaConfig) -> Vec<ParamSpec> {
    if config.expert.is_none() {
        return Vec::new();
    }
    let copied = |name: &str| ["qkv.", "gate_up.", "mlp.down_proj."].iter().any(|stem| name.contains(stem));
    let renamed = |name: &str| format!("{PREFIX}{}", name.strip_prefix(BASE).unwrap_or(name));
    let copy = |spec: ParamSpec| {
        let part = |part: ParamPart| ParamPart { name: renamed(&part.name), ..part };
        let segment = spec.segment.replacen("llm.", PREFIX, 1);
        ParamSpec { name: renamed(&spec.name), parts: spec.parts.into_iter().map(part).collect(), segment, ..spec }
    };
    llama::specs(&config.llm).into_iter().filter(|spec| copied(&spec.name)).map(copy).collect()
}

/// Gives the experts the language model's weights, so that they compute what it computes.
///
/// # Errors
/// Those of the device.
pub fn copy_from_base(backend: &dyn Backend, store: &ParamStore) -> Result<()> {
    for id in store.ids() {
        let base = store.spec(id).name.strip_prefix(PREFIX).and_then(|name| store.id(&format!("{BASE}{name}")));
        if let Some(base) = base {
            let values = store.values(backend, base)?;
            store.edit(backend, id, |mine| backend.copy(&Copy { x: &values, y: mine }))?;
        }
    }
    Ok(())
}

/// The expert of a block.
pub(crate) struct Expert {
    pub(crate) qkv: Linear,
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

impl Expert {
    pub(crate) fn new(store: &ParamStore, layer: usize) -> Option<Self> {
        let linear = |stem: &str| Linear::new(store, &format!("{PREFIX}layers.{layer}.{stem}"));
        Some(Expert { qkv: linear("qkv")?, gate_up: linear("gate_up")?, down: linear("mlp.down_proj")? })
    }
}

/// Which rows of a micro-batch go through the experts.
#[derive(Clone)]
pub(crate) struct Routing {
    /// `[N]`: rows of images.
    image: Tensor,
    /// `[T - N]`: the other rows.
    text: Tensor,
    /// `[T]`: where each row is among the others, [`NO_ROW`] for rows of images.
    among_text: Tensor,
}

impl Routing {
    /// The routing of a batch; nothing if no row goes through an expert.
    pub(crate) fn of(backend: &dyn Backend, config: ExpertConfig, batch: &PackedBatch) -> Result<Option<Self>> {
        let image = image_rows(config, batch);
        if image.is_empty() {
            return Ok(None);
        }
        let mut among_text = vec![0; batch.ids.len()];
        image.iter().for_each(|&row| among_text[row as usize] = NO_ROW);
        let mut text = Vec::with_capacity(batch.ids.len() - image.len());
        for (row, place) in among_text.iter_mut().enumerate().filter(|(_, place)| **place != NO_ROW) {
            *place = text.len() as u32;
            text.push(row as u32);
        }
        let [image, text, among_text] = [image, text, among_text].map(|rows| backend.upload_u32(&rows));
        Ok(Some(Routing { image: image?, text: text?, among_text: among_text? }))
    }
}

fn image_rows(config: ExpertConfig, batch: &PackedBatch) -> Vec<u32> {
    let slots = &batch.image_slots;
    let ends = |i: usize| {
        let next = slots[i] + 1;
        // A document that begins with an image is no continuation of one that ends with one.
        slots.get(i + 1) != Some(&next) || batch.positions.get(next as usize) == Some(&0)
    };
    (0..slots.len()).filter(|&i| !(config.last_as_text && ends(i))).map(|i| slots[i]).collect()
}

/// Runs rows of images through `expert` and the others through `base`: one product for each kind.
pub(crate) fn routed<'a>(
    tape: &mut Tape<'a>,
    x: &Var<'a>,
    routing: Option<&Routing>,
    base: impl FnOnce(&mut Tape<'a>, &Var<'a>) -> Result<Var<'a>>,
    expert: impl FnOnce(&mut Tape<'a>, &Var<'a>) -> Result<Var<'a>>,
) -> Result<Var<'a>> {
    let Some(Routing { image, text, among_text }) = routing else { return base(tape, x) };
    if text.is_empty() {
        return expert(tape, x);
    }
    let theirs = tape.gather_rows(x, image)?;
    let theirs = expert(tape, &theirs)?;
    let others = tape.gather_rows(x, text)?;
    let others = base(tape, &others)?;
    let all = tape.gather_rows(&others, among_text)?;
    tape.splice(all, &theirs, image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, Images};

    #[test]
    fn the_last_row_of_a_run_of_images_can_stay_with_the_text() {
        let document = |tokens: &[u32]| Document::prompt(tokens.to_vec());
        // Two images side by side, then one that ends its document before one that begins the next.
        let documents = [document(&[1, NO_ROW, NO_ROW, 5, NO_ROW]), document(&[NO_ROW, 7])];
        let batch = PackedBatch::new(&documents, Images::None, 2, 1).expect("batch");
        assert_eq!(image_rows(ExpertConfig { last_as_text: false }, &batch), [1, 2, 3, 4, 6, 7, 8, 9]);
        assert_eq!(image_rows(ExpertConfig { last_as_text: true }, &batch), [1, 2, 3, 6, 8]);
    }
}
