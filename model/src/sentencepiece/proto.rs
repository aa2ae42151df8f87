//! The parts of `sentencepiece_model.proto` that tokenizing needs.

use super::wire::Message;
use super::{Fault, Outcome};

/// How text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelKind {
    Unigram,
    Bpe,
    Word,
    Char,
}

/// What a piece stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One entry of the vocabulary.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: std::sync::Arc<str>,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// `TrainerSpec`, as far as it matters after training.
#[derive(Debug)]
pub(super) struct TrainerSpec {
    pub(super) kind: ModelKind,
    pub(super) whitespace_as_suffix: bool,
    pub(super) byte_fallback: bool,
    pub(super) unk_surface: String,
    pub(super) bos_piece: String,
    pub(super) eos_piece: String,
}

/// `NormalizerSpec`.
#[derive(Debug)]
pub(super) struct NormalizerSpec {
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

/// `ModelProto`.
#[derive(Debug)]
pub(super) struct ModelProto {
    pub(super) pieces: Vec<Piece>,
    pub(super) trainer: TrainerSpec,
    pub(super) normalizer: NormalizerSpec,
    pub(super) denormalizer: Option<NormalizerSpec>,
}

impl Default for TrainerSpec {
    fn default() -> Self {
        TrainerSpec {
            kind: ModelKind::Unigram,
            whitespace_as_suffix: false,
            byte_fallback: false,
            unk_surface: " \u{2047} ".into(),
            bos_piece: "<s>".into(),
            eos_piece: "</s>".into(),
        }
    }
}

impl Default for NormalizerSpec {
    fn default() -> Self {
        NormalizerSpec {
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

impl ModelProto {
    pub(super) fn parse(bytes: &[u8]) -> Outcome<Self> {
        let mut model = ModelProto {
            pieces: Vec::new(),
            trainer: TrainerSpec::default(),
            normalizer: NormalizerSpec::default(),
            denormalizer: None,
        };
        let mut message = Message::new(bytes, "ModelProto");
        while let Some((number, value)) = message.next()? {
            match number {
                1 => model.pieces.push(Piece::parse(value.bytes("pieces")?)?),
                2 => model.trainer.merge(value.bytes("trainer_spec")?)?,
                3 => model.normalizer.merge(value.bytes("normalizer_spec")?)?,
                5 => model.denormalizer.get_or_insert_default().merge(value.bytes("denormalizer_spec")?)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(Fault::new("pieces", "is empty; the file is no SentencePiece model: fetch it again"));
        }
        Ok(model)
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Outcome<Self> {
        let (mut text, mut score, mut kind) = ("", 0.0, PieceKind::Normal);
        let mut message = Message::new(bytes, "pieces");
        while let Some((number, value)) = message.next()? {
            match number {
                1 => text = value.text("pieces.piece")?,
                2 => score = value.float("pieces.score")?,
                3 => kind = PieceKind::parse(value.integer("pieces.type")?)?,
                _ => {}
            }
        }
        Ok(Piece { text: text.into(), score, kind })
    }
}

impl PieceKind {
    fn parse(value: u64) -> Outcome<Self> {
        Ok(match value {
            1 => PieceKind::Normal,
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            5 => PieceKind::Unused,
            6 => PieceKind::Byte,
            value => {
                let problem = format!("is {value}; known types are 1 to 6: the model needs a newer reader");
                return Err(Fault::new("pieces.type", problem));
            }
        })
    }
}

impl TrainerSpec {
    fn merge(&mut self, bytes: &[u8]) -> Outcome<()> {
        let mut message = Message::new(bytes, "trainer_spec");
        while let Some((number, value)) = message.next()? {
            match number {
                3 => self.kind = ModelKind::parse(value.integer("trainer_spec.model_type")?)?,
                24 => self.whitespace_as_suffix = value.flag("trainer_spec.treat_whitespace_as_suffix")?,
                35 => self.byte_fallback = value.flag("trainer_spec.byte_fallback")?,
                44 => self.unk_surface = value.text("trainer_spec.unk_surface")?.into(),
                46 => self.bos_piece = value.text("trainer_spec.bos_piece")?.into(),
                47 => self.eos_piece = value.text("trainer_spec.eos_piece")?.into(),
                _ => {}
            }
        }
        Ok(())
    }
}

impl ModelKind {
    fn parse(value: u64) -> Outcome<Self> {
        Ok(match value {
            1 => ModelKind::Unigram,
            2 => ModelKind::Bpe,
            3 => ModelKind::Word,
            4 => ModelKind::Char,
            value => {
                let problem = format!("is {value}; known are 1 (unigram), 2 (bpe), 3 (word) and 4 (char)");
                return Err(Fault::new("trainer_spec.model_type", problem));
            }
        })
    }
}

impl NormalizerSpec {
    fn merge(&mut self, bytes: &[u8]) -> Outcome<()> {
        let mut message = Message::new(bytes, "normalizer_spec");
        while let Some((number, value)) = message.next()? {
            match number {
                2 => self.charsmap = value.bytes("normalizer_spec.precompiled_charsmap")?.to_vec(),
                3 => self.add_dummy_prefix = value.flag("normalizer_spec.add_dummy_prefix")?,
                4 => self.remove_extra_whitespaces = value.flag("normalizer_spec.remove_extra_whitespaces")?,
                5 => self.escape_whitespaces = value.flag("normalizer_spec.escape_whitespaces")?,
                _ => {}
            }
        }
        Ok(())
    }
}
