use crate::DType;

/// What can go wrong in an op or an allocation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shapes of an op's operands do not fit together.
    #[error("{op}: {what} has shape [{}, {}], expected [{}, {}]", got.0, got.1, expected.0, expected.1)]
    Shape {
        /// The op.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// Expected rows and columns.
        expected: (usize, usize),
        /// Actual rows and columns.
        got: (usize, usize),
    },
    /// An operand has an element type that the op does not take.
    #[error("{op}: {what} is {got:?}, expected {expected}")]
    DType {
        /// The op.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// What the op takes.
        expected: &'static str,
        /// The operand's type.
        got: DType,
    },
    /// An argument other than a tensor is out of its domain.
    #[error("{op}: {message}")]
    Argument {
        /// The op.
        op: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A row index, token id or position points outside its table.
    #[error("{op}: index {index} at position {at} is outside the table of {rows} rows")]
    Index {
        /// The op.
        op: &'static str,
        /// Position in the index tensor.
        at: usize,
        /// The offending value.
        index: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// An output shares storage with another operand of the same op.
    #[error("an output tensor shares its storage with another operand of the same op; give the op a buffer of its own")]
    Aliased,
    /// An op was given memory to write that is only read.
    #[error("an output is a tensor of a mapped file, which is only read; give the op a buffer of its own")]
    ReadOnly,
    /// A tensor of another device was given to a backend.
    #[error("a tensor of another device was given to the {0} backend")]
    ForeignDevice(&'static str),
    /// A view reaches outside its tensor.
    #[error("view {what} is outside the tensor of shape [{rows}, {cols}] (leading dimension {ld})")]
    View {
        /// The requested view.
        what: String,
        /// Rows of the tensor.
        rows: usize,
        /// Columns of the tensor.
        cols: usize,
        /// Leading dimension of the tensor, in elements.
        ld: usize,
    },
    /// Memory could not be had.
    #[error(
        "out of memory: {requested} bytes asked for, {in_use} bytes in use ({held}); if activations are the most, lower the \
         stage's `capacity` or recompute more, else train fewer parts or use a larger device"
    )]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// Bytes held.
        in_use: usize,
        /// Who holds them.
        held: String,
    },
    /// The device or its libraries failed.
    #[error("{op}: {message}")]
    Device {
        /// The op or action.
        op: &'static str,
        /// What the driver says.
        message: String,
    },
}

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// Fails with [`Error::Argument`] unless `condition` holds.
pub(crate) fn ensure(condition: bool, op: &'static str, message: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::Argument { op, message: message() }) }
}
