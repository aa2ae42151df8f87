//! Packed micro-batches: documents side by side on one token axis.

use vila_engine::NO_ROW;
use vila_engine::ops::LinearCrossEntropy;

use crate::{Error, Result};

/// A tokenized document: [`NO_ROW`] stands where an image goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Token ids and image placeholders, in order.
    pub tokens: Vec<u32>,
    /// Whether each token is predicted; the same length, or empty for none.
    pub supervised: Vec<bool>,
}

impl Document {
    /// A document without supervised tokens.
    pub fn prompt(tokens: Vec<u32>) -> Self {
        Document { tokens, supervised: Vec::new() }
    }

    /// Images that it refers to.
    pub fn images(&self) -> usize {
        self.tokens.iter().filter(|&&token| token == NO_ROW).count()
    }
}

/// What the images of a micro-batch are given as, in order of appearance.
#[derive(Clone, Debug, Default)]
pub enum Images {
    /// No image.
    #[default]
    None,
    /// Normalised pixels, `3 * size * size` each, channel-major.
    Pixels(Vec<f32>),
    /// Outputs of a frozen vision tower, `tokens * d_v` each.
    Features(Vec<f32>),
    /// That many images without values, as pixels or as features: for devices that only keep account of memory.
    Unset {
        /// Number of images.
        images: usize,
        /// Whether they stand for features.
        encoded: bool,
    },
}

/// Documents on one axis of `T` positions; no document is padded, none sees another.
#[derive(Clone, Debug)]
pub struct PackedBatch {
    /// `[T]`: token ids; [`NO_ROW`] where image features go.
    pub ids: Vec<u32>,
    /// `[T]`: positions, from 0 in every document.
    pub positions: Vec<u32>,
    /// `[documents + 1]`: boundaries, from 0 to `T`; the unused tail is one more document.
    pub cu_seqlens: Vec<u32>,
    /// `[images * tokens_per_image]`: rows where image features go, in order.
    pub image_slots: Vec<u32>,
    /// `[S]`: rows whose next token is supervised; [`NO_ROW`] in a tail that makes shapes repeat.
    pub supervised_rows: Vec<u32>,
    /// `[S]`: those next tokens, [`NO_ROW`] in the tail.
    pub targets: Vec<u32>,
    /// The images.
    pub images: Images,
}

/// Positions of a document after every placeholder has grown to an image.
pub fn expanded_len(tokens: usize, images: usize, tokens_per_image: usize) -> usize {
    tokens - images.min(tokens) + images * tokens_per_image
}

impl PackedBatch {
    /// Lays documents side by side and fills up to a multiple of `align` with an inert tail; with `align` above 1 supervised
    /// rows are filled up to whole chunks of the loss, too.
    ///
    /// # Errors
    /// [`Error::Input`] if a supervised position is an image, the first of its document, or out of step with the tokens.
    pub fn new(documents: &[Document], images: Images, tokens_per_image: usize, align: usize) -> Result<Self> {
        let mut batch = PackedBatch {
            ids: Vec::new(),
            positions: Vec::new(),
            cu_seqlens: vec![0],
            image_slots: Vec::new(),
            supervised_rows: Vec::new(),
            targets: Vec::new(),
            images,
        };
        for document in documents {
            batch.push(document, tokens_per_image)?;
        }
        let tail = batch.ids.len().next_multiple_of(align.max(1)) - batch.ids.len();
        if tail > 0 {
            batch.ids.resize(batch.ids.len() + tail, NO_ROW);
            batch.positions.resize(batch.ids.len(), 0);
            batch.cu_seqlens.push(batch.ids.len() as u32);
        }
        if align > 1 {
            let padded = batch.targets.len().next_multiple_of(LinearCrossEntropy::CHUNK);
            batch.supervised_rows.resize(padded, NO_ROW);
            batch.targets.resize(padded, NO_ROW);
        }
        Ok(batch)
    }

    /// Supervised tokens.
    pub fn supervised(&self) -> usize {
        self.targets.iter().filter(|&&target| target != NO_ROW).count()
    }

    fn push(&mut self, document: &Document, tokens_per_image: usize) -> Result<()> {
        if !document.supervised.is_empty() && document.supervised.len() != document.tokens.len() {
            return Err(Error::Input("a document's loss mask differs from its tokens in length".into()));
        }
        let start = self.ids.len();
        for (i, &token) in document.tokens.iter().enumerate() {
            if document.supervised.get(i) == Some(&true) {
                if token == NO_ROW || self.ids.len() == start {
                    return Err(Error::Input("a document supervises an image or its first token".into()));
                }
                self.supervised_rows.push(self.ids.len() as u32 - 1);
                self.targets.push(token);
            }
            let width = if token == NO_ROW { tokens_per_image } else { 1 };
            if token == NO_ROW {
                self.image_slots.extend((0..width).map(|k| (self.ids.len() + k) as u32));
            }
            self.ids.extend(std::iter::repeat_n(token, width));
        }
        self.positions.extend(0..(self.ids.len() - start) as u32);
        self.cu_seqlens.push(self.ids.len() as u32);
        Ok(())
    }
}
