use vila_autograd::{ParamSpec, ParamStore, Tape, Var};
use vila_engine::{Backend, DType, Tensor};

use crate::config::VilaConfig;
use crate::expert::{self, Routing};
use crate::llama::{self, Llama, Rows, Stream};
use crate::lora;
use crate::projector::{self, Projector};
use crate::rope::RopeTables;
use crate::vision::{self, VisionTower};
use crate::{Error, Images, PackedBatch, Result};

/// The computation of a VILA model over the parameters of a store.
pub struct VilaModel {
    config: VilaConfig,
    vision: VisionTower,
    projector: Projector,
    pub(crate) llm: Llama,
}

impl VilaModel {
    /// The parameters that the model computes with, in model order: tower, projector, decoder, experts, adapters.
    pub fn specs(config: &VilaConfig) -> Vec<ParamSpec> {
        let mut specs = vision::specs(&config.vision);
        specs.extend(projector::specs(config));
        specs.extend(llama::specs(&config.llm));
        specs.extend(expert::specs(config));
        specs.extend(lora::specs(config));
        specs
    }

    /// Binds the computation to a store made of [`VilaModel::specs`].
    pub fn new(backend: &dyn Backend, config: &VilaConfig, store: &ParamStore) -> Result<Self> {
        let foreign = || Error::Input("the parameter store was not made of this model's specs".into());
        let tables = RopeTables::new(backend, &config.llm, store.dtype())?;
        Ok(VilaModel {
            vision: VisionTower::new(config.vision.clone(), store).ok_or_else(foreign)?,
            projector: Projector::new(config, store).ok_or_else(foreign)?,
            llm: Llama::new(config, tables, store).ok_or_else(foreign)?,
            config: config.clone(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &VilaConfig {
        &self.config
    }

    /// Outputs of the vision tower for normalised pixels: `[images * tokens, d_v]`.
    pub fn vision_features<'a>(&'a self, tape: &mut Tape<'a>, pixels: &[f32]) -> Result<Var<'a>> {
        let pixels = upload(tape, pixels, self.pixels_per_image(), "pixels of whole images")?;
        Ok(self.vision.forward(tape, &pixels)?)
    }

    /// As [`VilaModel::vision_features`], of `images` images whose pixels have no values.
    pub fn unset_features<'a>(&'a self, tape: &mut Tape<'a>, images: usize) -> Result<Var<'a>> {
        let pixels = unset(tape, images, self.pixels_per_image())?;
        Ok(self.vision.forward(tape, &pixels)?)
    }

    fn pixels_per_image(&self) -> usize {
        3 * self.config.vision.image_size.pow(2)
    }

    /// Image features as the decoder sees them: `[images * tokens_per_image, D]`; nothing without images.
    pub fn image_features<'a>(&'a self, tape: &mut Tape<'a>, images: &Images) -> Result<Option<Var<'a>>> {
        let features = match images {
            Images::None => return Ok(None),
            Images::Pixels(pixels) => self.vision_features(tape, pixels)?,
            Images::Features(features) => {
                let features = upload(tape, features, self.config.vision.hidden_size, "whole feature rows")?;
                tape.input(features, false)
            }
            Images::Unset { images, encoded: false } => self.unset_features(tape, *images)?,
            Images::Unset { images, encoded: true } => {
                let vision = &self.config.vision;
                let features = unset(tape, images * vision.tokens(), vision.hidden_size)?;
                tape.input(features, false)
            }
        };
        Ok(Some(self.projector.forward(tape, &features)?))
    }

    /// Token embeddings with image features in their places: `[T, D]`.
    pub(crate) fn embed<'a>(&'a self, tape: &mut Tape<'a>, batch: &PackedBatch) -> Result<Var<'a>> {
        let longest = batch.positions.iter().max().map_or(0, |&last| last as usize + 1);
        if longest > self.llm.tables.cos.rows() {
            let limit = self.llm.tables.cos.rows();
            return Err(Error::Input(format!(
                "a document has {longest} positions, the model was made for {limit} (max_position_embeddings); \
                 use fewer images or less text"
            )));
        }
        let features = self.image_features(tape, &batch.images)?;
        let given = features.as_ref().map_or(0, |features| features.tensor().rows());
        if given != batch.image_slots.len() {
            let per_image = self.config.tokens_per_image().max(1);
            return Err(Error::Input(format!(
                "{} images were given for {} image places in the text; give one image per <image>",
                given / per_image,
                batch.image_slots.len() / per_image
            )));
        }
        let ids = tape.backend().upload_u32(&batch.ids)?;
        let x = tape.embedding(self.llm.embed, &ids)?;
        match features {
            None => Ok(x),
            Some(features) => {
                let slots = tape.backend().upload_u32(&batch.image_slots)?;
                Ok(tape.splice(x, &features, &slots)?)
            }
        }
    }

    /// Positions and routing of a batch.
    pub(crate) fn rows(&self, backend: &dyn Backend, batch: &PackedBatch) -> Result<Rows> {
        let routing = self.config.expert.map(|config| Routing::of(backend, config, batch)).transpose()?.flatten();
        Ok(Rows { positions: backend.upload_u32(&batch.positions)?, routing })
    }

    /// Hidden states after the final norm: `[T, D]`.
    pub fn hidden<'a>(&'a self, tape: &mut Tape<'a>, batch: &PackedBatch) -> Result<Var<'a>> {
        self.run_blocks(tape, batch, |_| Ok(()))
    }

    /// The residual stream before the first block and after each one, before the final norm: `layers + 1` times `[T * D]`,
    /// as f32 on the host. Entry 0 is what the decoder reads: token embeddings, and image features in their places.
    pub fn layer_states<'a>(&'a self, tape: &mut Tape<'a>, batch: &PackedBatch) -> Result<Vec<Vec<f32>>> {
        let (backend, mut states) = (tape.backend(), Vec::with_capacity(self.llm.layers() + 1));
        self.run_blocks(tape, batch, |stream| {
            let mut state = backend.to_f32(stream.sum.tensor())?;
            if let Some(pending) = &stream.pending {
                let pending = backend.to_f32(pending.tensor())?;
                state.iter_mut().zip(pending).for_each(|(sum, branch)| *sum += branch);
            }
            states.push(state);
            Ok(())
        })?;
        Ok(states)
    }

    /// Runs the decoder, shows the stream before the first block and after each, and returns what the head reads.
    fn run_blocks<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        batch: &PackedBatch,
        mut show: impl FnMut(&Stream<'a>) -> Result<()>,
    ) -> Result<Var<'a>> {
        let rows = self.rows(tape.backend(), batch)?;
        let cu_seqlens = tape.backend().upload_u32(&batch.cu_seqlens)?;
        let mut stream = Stream { sum: self.embed(tape, batch)?, pending: None };
        show(&stream)?;
        for layer in 0..self.llm.layers() {
            let (rows, cu_seqlens) = (rows.clone(), cu_seqlens.clone());
            let run = move |tape: &mut Tape<'a>, x: &[Var<'a>]| {
                let stream = Stream { sum: x[0].clone(), pending: x.get(1).cloned() };
                let attend =
                    |tape: &mut Tape<'a>, qkv: &Var<'a>| tape.attention(qkv, self.llm.config.heads, &cu_seqlens, true);
                let stream = self.llm.block(tape, layer, stream, &rows, attend)?;
                Ok([Some(stream.sum), stream.pending].into_iter().flatten().collect())
            };
            let inputs: Vec<Var<'a>> = [Some(stream.sum), stream.pending].into_iter().flatten().collect();
            let mut outputs = tape.block(&inputs, run)?.into_iter();
            stream = match (outputs.next(), outputs.next()) {
                (Some(sum), pending) => Stream { sum, pending },
                (None, _) => return Err(Error::Input("a block without output".into())),
            };
            show(&stream)?;
        }
        Ok(self.llm.finish(tape, stream)?)
    }

    /// `scale Σ` cross-entropy of the supervised tokens: the root of the tape, `[1, 1]`; nothing without any.
    pub fn loss<'a>(&'a self, tape: &mut Tape<'a>, batch: &PackedBatch, scale: f64) -> Result<Option<Var<'a>>> {
        self.loss_by_row(tape, batch, scale, None)
    }

    /// [`VilaModel::loss`] that also writes the cross-entropy of each supervised row, `[S]` f32.
    pub fn loss_by_row<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        batch: &PackedBatch,
        scale: f64,
        row_loss: Option<&Tensor>,
    ) -> Result<Option<Var<'a>>> {
        if batch.targets.is_empty() {
            return Ok(None);
        }
        let hidden = self.hidden(tape, batch)?;
        let rows = tape.backend().upload_u32(&batch.supervised_rows)?;
        let targets = tape.backend().upload_u32(&batch.targets)?;
        let hidden = tape.gather_rows(&hidden, &rows)?;
        Ok(Some(tape.linear_cross_entropy(&hidden, self.llm.head, &targets, scale, row_loss)?))
    }

    /// Scores of every vocabulary entry at rows of `hidden`: `[T, V]`.
    pub fn logits<'a>(&'a self, tape: &mut Tape<'a>, hidden: &Var<'a>) -> Result<Tensor> {
        Ok(tape.linear(hidden, self.llm.head, None)?.tensor().clone())
    }
}

/// Host values as rows of `width`, in the store's type.
fn upload(tape: &Tape, values: &[f32], width: usize, what: &str) -> Result<Tensor> {
    if !values.len().is_multiple_of(width.max(1)) {
        return Err(Error::Input(format!("{} values are not {what} of {width}", values.len())));
    }
    let host = tape.backend().upload_f32(values.len() / width.max(1), width, values)?;
    in_store_type(tape, host)
}

/// As [`upload`], without values.
fn unset(tape: &Tape, rows: usize, width: usize) -> Result<Tensor> {
    in_store_type(tape, tape.backend().alloc(DType::F32, rows, width)?)
}

fn in_store_type(tape: &Tape, values: Tensor) -> Result<Tensor> {
    if tape.store().dtype() == DType::F32 {
        return Ok(values);
    }
    let tensor = tape.backend().alloc(tape.store().dtype(), values.rows(), values.cols())?;
    tape.backend().copy(&vila_engine::ops::Copy { x: &values, y: &tensor })?;
    Ok(tensor)
}
