//! What lies between tower and decoder.

use super::fields::Fields;
use super::keys::say_once;
use crate::Result;

/// What lies between vision tower and LLM (spec 1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectorKind {
    /// Nothing: the tower is as wide as the decoder.
    Identity,
    /// One linear layer.
    Linear,
    /// `k` linear layers with GELU between: `mlp2x_gelu`.
    Mlp {
        /// Number of linear layers.
        depth: usize,
    },
    /// 2x2 neighbours side by side, then one linear layer (the paper's Table 7).
    Downsample,
    /// 2x2 neighbours, layer norm and two linear layers; token order transposed, as in released weights.
    MlpDownsample,
    /// The same with tokens in row-major order.
    MlpDownsample2x2Fix,
    /// 3x3 neighbours, then layer norms and three linear layers.
    MlpDownsample3x3Fix,
    /// One linear layer and pre-norm transformer blocks over the patches (the paper's Table 1).
    Transformer {
        /// Number of blocks.
        depth: usize,
        /// Their width, if it is not the decoder's; then one more linear layer follows.
        width: Option<usize>,
        /// Their heads; about 128 wide if left out.
        heads: Option<usize>,
    },
}

impl ProjectorKind {
    /// Reads the public name. Transformers are `transformer`, or with more blocks, another width or heads than usual,
    /// `transformer2x_512w_4h`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "identity" => Some(ProjectorKind::Identity),
            "linear" => Some(ProjectorKind::Linear),
            "downsample" => Some(ProjectorKind::Downsample),
            "mlp_downsample" => Some(ProjectorKind::MlpDownsample),
            "mlp_downsample_2x2_fix" => Some(ProjectorKind::MlpDownsample2x2Fix),
            "mlp_downsample_3x3_fix" => Some(ProjectorKind::MlpDownsample3x3Fix),
            _ => match name.strip_prefix("transformer") {
                Some(options) => Self::parse_transformer(options),
                None => {
                    let depth = name.strip_prefix("mlp")?.strip_suffix("x_gelu")?.parse().ok()?;
                    (1..=64).contains(&depth).then_some(ProjectorKind::Mlp { depth })
                }
            },
        }
    }

    fn parse_transformer(options: &str) -> Option<Self> {
        let (mut depth, mut width, mut heads) = (1, None, None);
        for option in options.split('_').filter(|option| !option.is_empty()) {
            let (number, unit) = option.split_at_checked(option.len() - 1)?;
            let number = number.parse().ok().filter(|number| (1..1 << 20).contains(number))?;
            match unit {
                "x" => depth = number,
                "w" => width = Some(number),
                "h" => heads = Some(number),
                _ => return None,
            }
        }
        (depth <= 64).then_some(ProjectorKind::Transformer { depth, width, heads })
    }

    /// The public name.
    pub fn name(self) -> String {
        match self {
            ProjectorKind::Identity => "identity".into(),
            ProjectorKind::Linear => "linear".into(),
            ProjectorKind::Mlp { depth } => format!("mlp{depth}x_gelu"),
            ProjectorKind::Downsample => "downsample".into(),
            ProjectorKind::MlpDownsample => "mlp_downsample".into(),
            ProjectorKind::MlpDownsample2x2Fix => "mlp_downsample_2x2_fix".into(),
            ProjectorKind::MlpDownsample3x3Fix => "mlp_downsample_3x3_fix".into(),
            ProjectorKind::Transformer { depth, width, heads } => {
                let depth = if depth > 1 { format!("{depth}x") } else { String::new() };
                let option = |number: Option<usize>, unit| number.map_or(String::new(), |n| format!("_{n}{unit}"));
                format!("transformer{depth}{}{}", option(width, 'w'), option(heads, 'h'))
            }
        }
    }

    /// Names that [`ProjectorKind::parse`] takes, for messages.
    pub const NAMES: &'static str = "linear, mlp2x_gelu, identity, downsample, mlp_downsample, mlp_downsample_2x2_fix, \
                                     mlp_downsample_3x3_fix, transformer, transformer2x_512w_4h";

    /// How many patches along a side become one token.
    pub(super) fn merged_side(self) -> usize {
        match self {
            ProjectorKind::Downsample | ProjectorKind::MlpDownsample | ProjectorKind::MlpDownsample2x2Fix => 2,
            ProjectorKind::MlpDownsample3x3Fix => 3,
            _ => 1,
        }
    }

    /// The order of merged tokens, of kinds that merge: `columns` or `rows`.
    pub fn token_order(self) -> Option<&'static str> {
        let order = match self {
            ProjectorKind::MlpDownsample => TokenOrder::Columns,
            _ if self.merged_side() > 1 => TokenOrder::Rows,
            _ => return None,
        };
        Some(order.name())
    }

    /// Heads of a transformer's blocks of that width.
    pub(crate) fn heads(self, width: usize) -> usize {
        let usual = || (1..=(width / 128).max(1)).rev().find(|heads| width.is_multiple_of(*heads)).unwrap_or(1);
        match self {
            ProjectorKind::Transformer { heads: Some(heads), .. } => heads,
            _ => usual(),
        }
    }

    /// Whether it fits between a tower and a decoder of these widths; says what is wrong.
    pub fn check(self, vision: usize, llm: usize) -> std::result::Result<(), String> {
        match self {
            ProjectorKind::Identity if vision != llm => {
                Err(format!("is identity, which cannot make features of {vision} as wide as the decoder ({llm})"))
            }
            ProjectorKind::Transformer { width, heads: Some(heads), .. }
                if !width.unwrap_or(llm).is_multiple_of(heads) =>
            {
                Err(format!("has {heads} heads, which do not divide the width {}", width.unwrap_or(llm)))
            }
            _ => Ok(()),
        }
    }
}

/// The order of merged tokens in folders that say `mlp_downsample`: VILA wrote one until December 2024 and another since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenOrder {
    /// Column by column, as VILA 1.5.
    Columns,
    /// Row by row, as later versions: the same as `mlp_downsample_2x2_fix`.
    Rows,
}

/// Keys that VILA's configurations have since the order changed.
const SINCE_ROWS: [&str; 7] =
    ["image_encoder", "video_encoder", "dynamic_s2", "min_tiles", "max_tiles", "video_max_tiles", "num_time_tokens"];

/// The version of transformers that those VILA versions need; earlier ones need 4.36 or 4.37.
const ROWS_SINCE: (u32, u32) = (4, 46);

impl TokenOrder {
    pub(super) fn name(self) -> &'static str {
        match self {
            TokenOrder::Columns => "columns",
            TokenOrder::Rows => "rows",
        }
    }

    /// What a folder says: by `token_order`, else by the version of the program that wrote it.
    pub(super) fn of(root: &Fields, projector: &Fields, llm: &Fields) -> Result<Self> {
        match projector.text("token_order")? {
            Some("columns") => return Ok(TokenOrder::Columns),
            Some("rows") => return Ok(TokenOrder::Rows),
            Some(other) => {
                return Err(projector.error("token_order", format!("is {other}, expected columns or rows")));
            }
            None => {}
        }
        let files = [root, projector, llm];
        let version = files.into_iter().find_map(|file| version(file.text("transformers_version").ok()??));
        let (order, why) = match version {
            _ if SINCE_ROWS.iter().any(|key| root.get(key).is_some()) => (TokenOrder::Rows, "its keys are of VILA 2"),
            Some(version) if version >= ROWS_SINCE => {
                (TokenOrder::Rows, "its transformers_version is VILA 2's or later")
            }
            Some(_) => (TokenOrder::Columns, "its transformers_version is VILA 1.5's"),
            None => (TokenOrder::Columns, "the folder says no version, so it is read as VILA 1.5's"),
        };
        let decision = format!(
            "mlp_downsample has its tokens in {}: {why}; \"token_order\": \"columns\" or \"rows\" here decides otherwise",
            order.name()
        );
        say_once(projector.path(), &decision);
        Ok(order)
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A projector and its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectorConfig {
    /// Which one.
    pub kind: ProjectorKind,
    /// Whether linear layers have biases.
    pub bias: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_projectors_are_read_as_they_are_written() {
        let names = "linear, mlp3x_gelu, identity, downsample, mlp_downsample, mlp_downsample_2x2_fix, \
                     mlp_downsample_3x3_fix, transformer, transformer2x, transformer_64w, transformer3x_512w_4h";
        for name in names.split(", ") {
            assert_eq!(ProjectorKind::parse(name).map(ProjectorKind::name).as_deref(), Some(name));
        }
        for name in
            ["mlp0x_gelu", "mlpx_gelu", "transformer0x", "transformer2y", "transformer99x", "transformer_w", "é"]
        {
            assert_eq!(ProjectorKind::parse(name), None, "{name}");
        }
        assert_eq!(ProjectorKind::parse("transformer2é"), None);
        let odd = ProjectorKind::Transformer { depth: 1, width: None, heads: Some(3) };
        assert!(odd.check(16, 32).is_err() && odd.check(16, 33).is_ok());
        assert!(ProjectorKind::Identity.check(16, 32).is_err());
    }
}
