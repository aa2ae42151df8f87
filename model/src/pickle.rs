//! The part of Python's pickle format that a file of tensors needs.
//!
//! A pickle is a program for a stack machine whose functions are those that it names. This machine knows the few functions
//! that `torch.save` needs to describe tensors and containers ([`Global`]) and runs none: a call makes a description.
//! Everything else is an error. Objects live in one list and refer to each other by number, so nothing here recurses, and
//! an instruction makes at most one object: the work is bounded by the bytes that are there, not by what they claim.

use std::collections::HashMap;

use safetensors::tensor::Dtype;

use crate::zip::fixed;

/// Why a pickle is refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum PickleError {
    #[error("the description of the tensors ends in the middle of an instruction")]
    Truncated,
    #[error("the file asks to call {0}, which is not needed for tensors and is refused; it may be malicious")]
    Global(String),
    #[error("byte {at} of the description is instruction {code:#04x}, which is not needed for tensors and is refused")]
    Instruction { code: u8, at: usize },
    #[error("byte {at} of the description: {problem}")]
    Malformed { at: usize, problem: &'static str },
    #[error("the description of the tensors needs more than {0}")]
    Limit(&'static str),
    #[error("entry {name:?}: {problem}")]
    Tensor { name: String, problem: String },
    #[error("the file holds no table of tensors but {0}")]
    Root(&'static str),
}

type Result<T> = std::result::Result<T, PickleError>;

/// A tensor as a pickle describes it; nothing is compared with any data yet.
#[derive(Debug, PartialEq)]
pub(crate) struct Claim<'a> {
    pub name: &'a str,
    pub shape: Vec<usize>,
    pub storage: Storage<'a>,
    /// First element within the storage.
    pub offset: usize,
    /// Product of the shape.
    pub elements: usize,
}

/// A run of elements that tensors are views of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Storage<'a> {
    pub dtype: Dtype,
    /// Name of its data in the archive.
    pub key: &'a str,
    pub elements: usize,
}

const MAX_BYTES: usize = 64 << 20;
const MAX_OBJECTS: usize = 1 << 20;
const MAX_DEPTH: usize = 1 << 16;
const MAX_RANK: usize = 16;

/// Everything that may be named.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    StorageType(Dtype),
}

impl Global {
    fn find(module: &str, name: &str) -> Result<Self> {
        let storage = |dtype| Ok(Global::StorageType(dtype));
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
            ("torch", "Size") => Ok(Global::Size),
            ("torch", "FloatStorage") => storage(Dtype::F32),
            ("torch", "HalfStorage") => storage(Dtype::F16),
            ("torch", "BFloat16Storage") => storage(Dtype::BF16),
            ("torch", "DoubleStorage") => storage(Dtype::F64),
            ("torch", "LongStorage") => storage(Dtype::I64),
            ("torch", "IntStorage") => storage(Dtype::I32),
            ("torch", "ShortStorage") => storage(Dtype::I16),
            ("torch", "CharStorage") => storage(Dtype::I8),
            ("torch", "ByteStorage") => storage(Dtype::U8),
            ("torch", "BoolStorage") => storage(Dtype::BOOL),
            _ => Err(PickleError::Global(shown(&format!("{module}.{name}")))),
        }
    }
}

/// A name from a file, short and without control characters.
fn shown(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}

/// Number of an object.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Id(usize);

#[derive(Debug)]
enum Object<'a> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(Vec<Id>),
    List,
    Dict { ordered: bool, items: Vec<(Id, Id)> },
    Global(Global),
    Storage(Storage<'a>),
    Tensor(Box<View<'a>>),
}

#[derive(Debug)]
struct View<'a> {
    storage: Storage<'a>,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Runs a pickle and lists the tensors of the table that it makes: `{name: tensor}`, or `{"state_dict": {name: tensor}}`.
pub(crate) fn tensors(bytes: &[u8]) -> Result<Vec<Claim<'_>>> {
    if bytes.len() > MAX_BYTES {
        return Err(PickleError::Limit("64 MiB"));
    }
    let mut machine =
        Machine { bytes, at: 0, start: 0, objects: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
    let root = machine.run()?;
    machine.table(root)
}

struct Machine<'a> {
    bytes: &'a [u8],
    /// Next byte.
    at: usize,
    /// First byte of the instruction at work.
    start: usize,
    objects: Vec<Object<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which lists of arguments begin.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id> {
        loop {
            self.start = self.at;
            match self.byte()? {
                b'.' => break,
                code => self.step(code)?,
            }
        }
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() || self.at != self.bytes.len() {
            return Err(self.malformed("something is left over at the end"));
        }
        Ok(root)
    }

    /// One instruction; names are those of Python's `pickletools`.
    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            0x80 => self.protocol(),
            0x95 => self.take(8).map(drop),                              // FRAME
            b'(' => self.mark(),                                         // MARK
            b'N' => self.push(Object::None),                             // NONE
            0x88 => self.push(Object::Bool),                             // NEWTRUE
            0x89 => self.push(Object::Bool),                             // NEWFALSE
            b'K' => self.small_int(1),                                   // BININT1
            b'M' => self.small_int(2),                                   // BININT2
            b'J' => self.int(),                                          // BININT
            0x8a => self.long_int(),                                     // LONG1
            b'G' => self.take(8).and_then(|_| self.push(Object::Float)), // BINFLOAT
            0x8c => self.text(1),                                        // SHORT_BINUNICODE
            b'X' => self.text(4),                                        // BINUNICODE
            0x8d => self.text(8),                                        // BINUNICODE8
            b'}' => self.push(Object::Dict { ordered: false, items: Vec::new() }), // EMPTY_DICT
            b']' => self.push(Object::List),                             // EMPTY_LIST
            b')' => self.push(Object::Tuple(Vec::new())),                // EMPTY_TUPLE
            0x85..=0x87 => self.short_tuple(usize::from(code) - 0x84),   // TUPLE1 to TUPLE3
            b't' => self.tuple(),                                        // TUPLE
            b'a' => self.pop().and_then(|_| self.expect_list()),         // APPEND
            b'e' => self.pop_to_mark().and_then(|_| self.expect_list()), // APPENDS
            b's' => self.set_item(),                                     // SETITEM
            b'u' => self.set_items(),                                    // SETITEMS
            b'q' => self.number(1).and_then(|slot| self.put(slot)),      // BINPUT
            b'r' => self.number(4).and_then(|slot| self.put(slot)),      // LONG_BINPUT
            0x94 => self.put(self.memo.len() as u64),                    // MEMOIZE
            b'h' => self.number(1).and_then(|slot| self.get(slot)),      // BINGET
            b'j' => self.number(4).and_then(|slot| self.get(slot)),      // LONG_BINGET
            b'c' => self.global(),                                       // GLOBAL
            0x93 => self.stack_global(),                                 // STACK_GLOBAL
            b'Q' => self.persistent_id(),                                // BINPERSID
            b'R' => self.reduce(),                                       // REDUCE
            b'b' => self.build(),                                        // BUILD
            code => Err(PickleError::Instruction { code, at: self.start }),
        }
    }

    fn malformed(&self, problem: &'static str) -> PickleError {
        PickleError::Malformed { at: self.start, problem }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(PickleError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(PickleError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or(PickleError::Truncated)
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, count: usize) -> Result<u64> {
        Ok(self.take(count)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn object(&self, id: Id) -> &Object<'a> {
        // Ids are made by `push` alone and objects are never removed.
        &self.objects[id.0]
    }

    fn push(&mut self, object: Object<'a>) -> Result<()> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(PickleError::Limit("1,048,576 objects"));
        }
        self.objects.push(object);
        self.push_id(Id(self.objects.len() - 1))
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(PickleError::Limit("65,536 objects at a time"));
        }
        self.stack.push(id);
        Ok(())
    }

    /// Takes the top of the stack, but nothing from below the last mark.
    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let popped = if self.stack.len() > floor { self.stack.pop() } else { None };
        popped.ok_or_else(|| self.malformed("an instruction lacks its operands"))
    }

    fn top(&mut self) -> Result<Id> {
        let id = self.pop()?;
        self.push_id(id)?;
        Ok(id)
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() >= MAX_DEPTH {
            return Err(PickleError::Limit("65,536 nested lists"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed("a list of operands has no beginning"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn protocol(&mut self) -> Result<()> {
        match (self.start, self.byte()?) {
            (0, 2..=4) => Ok(()),
            _ => Err(self.malformed("only pickle protocols 2, 3 and 4 are read")),
        }
    }

    fn small_int(&mut self, bytes: usize) -> Result<()> {
        let value = self.number(bytes)?;
        self.push(Object::Int(value as i64))
    }

    fn int(&mut self) -> Result<()> {
        let value = fixed(self.take(4)?, 0).map(i32::from_le_bytes).ok_or(PickleError::Truncated)?;
        self.push(Object::Int(value.into()))
    }

    fn long_int(&mut self) -> Result<()> {
        let bytes = usize::from(self.byte()?);
        if bytes > 8 {
            return Err(self.malformed("a number has more than 64 bits"));
        }
        let value = self.number(bytes)?;
        let unused = 64 - 8 * bytes as u32;
        // Two's complement: the highest bit present is the sign.
        let value = if bytes == 0 { 0 } else { (value << unused) as i64 >> unused };
        self.push(Object::Int(value))
    }

    fn text(&mut self, length_bytes: usize) -> Result<()> {
        let length = usize::try_from(self.number(length_bytes)?).map_err(|_| PickleError::Truncated)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| self.malformed("a text is not UTF-8"))?;
        self.push(Object::Text(text))
    }

    fn short_tuple(&mut self, count: usize) -> Result<()> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Object::Tuple(items))
    }

    fn tuple(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        self.push(Object::Tuple(items))
    }

    /// What lists hold is never needed.
    fn expect_list(&mut self) -> Result<()> {
        let list = self.top()?;
        match self.object(list) {
            Object::List => Ok(()),
            _ => Err(self.malformed("something is appended to what is no list")),
        }
    }

    fn set_item(&mut self) -> Result<()> {
        let value = self.pop()?;
        let key = self.pop()?;
        self.extend_dict(&[key, value])
    }

    fn set_items(&mut self) -> Result<()> {
        let items = self.pop_to_mark()?;
        self.extend_dict(&items)
    }

    fn extend_dict(&mut self, pairs: &[Id]) -> Result<()> {
        let (pairs, rest) = pairs.as_chunks::<2>();
        let dict = self.top()?;
        match self.objects.get_mut(dict.0) {
            Some(Object::Dict { items, .. }) if rest.is_empty() => {
                items.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => Err(self.malformed("entries are set in what is no dictionary")),
        }
    }

    fn put(&mut self, slot: u64) -> Result<()> {
        let id = self.top()?;
        let slot = u32::try_from(slot).map_err(|_| PickleError::Limit("4,294,967,296 references"))?;
        if self.memo.len() >= MAX_OBJECTS {
            return Err(PickleError::Limit("1,048,576 references"));
        }
        self.memo.insert(slot, id);
        Ok(())
    }

    fn get(&mut self, slot: u64) -> Result<()> {
        let id = u32::try_from(slot).ok().and_then(|slot| self.memo.get(&slot)).copied();
        let id = id.ok_or_else(|| self.malformed("a reference leads nowhere"))?;
        self.push_id(id)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or(PickleError::Truncated)?;
        let line = std::str::from_utf8(self.take(length)?).map_err(|_| self.malformed("a name is not UTF-8"))?;
        self.byte()?;
        Ok(line)
    }

    fn global(&mut self) -> Result<()> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Object::Global(Global::find(module, name)?))
    }

    fn stack_global(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (self.object(module), self.object(name)) {
            (Object::Text(module), Object::Text(name)) => {
                let global = Global::find(module, name)?;
                self.push(Object::Global(global))
            }
            _ => Err(self.malformed("a function is named by what is no text")),
        }
    }

    /// `("storage", type, key, device, elements)`; the device is where the data once lay.
    fn persistent_id(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = self.storage(id).ok_or_else(|| self.malformed("an outside object is no storage of elements"))?;
        self.push(Object::Storage(storage))
    }

    fn storage(&self, id: Id) -> Option<Storage<'a>> {
        let [kind, class, key, device, elements] = *self.items(id)? else { return None };
        match (self.object(kind), self.object(class), self.object(key), self.object(device)) {
            (
                Object::Text("storage"),
                &Object::Global(Global::StorageType(dtype)),
                Object::Text(key),
                Object::Text(_),
            ) => Some(Storage { dtype, key, elements: self.size(elements)? }),
            _ => None,
        }
    }

    fn items(&self, id: Id) -> Option<&[Id]> {
        match self.object(id) {
            Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match self.object(id) {
            Object::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        let items = self.items(id).filter(|items| items.len() <= MAX_RANK)?;
        items.iter().map(|item| self.size(*item)).collect()
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let unfit = self.malformed("a call has arguments of another kind");
        let &Object::Global(function) = self.object(function) else {
            return Err(self.malformed("something is called that is no function"));
        };
        let arguments = self.items(arguments).ok_or_else(|| self.malformed("a call has no arguments"))?;
        match (function, arguments) {
            (Global::OrderedDict, []) => self.push(Object::Dict { ordered: true, items: Vec::new() }),
            (Global::Size, &[sizes]) if self.items(sizes).is_some() => self.push_id(sizes),
            (Global::RebuildTensor, arguments) => {
                let view = self.view(arguments).ok_or(unfit)?;
                self.push(Object::Tensor(Box::new(view)))
            }
            (Global::RebuildParameter, &[tensor, gradient, hooks])
                if matches!(self.object(tensor), Object::Tensor(_)) && self.is_plain(gradient, hooks) =>
            {
                self.push_id(tensor)
            }
            _ => Err(unfit),
        }
    }

    /// `(storage, offset, shape, strides, requires_grad, hooks)`, and nothing that changes what the elements mean.
    fn view(&self, arguments: &[Id]) -> Option<View<'a>> {
        let (&[storage, offset, shape, strides, gradient, hooks], rest) = arguments.split_first_chunk::<6>()?;
        let unchanged = match *rest {
            [] => true,
            [metadata] => matches!(self.object(metadata), Object::None) || self.is_empty_dict(metadata),
            _ => false,
        };
        let &Object::Storage(storage) = self.object(storage) else { return None };
        let view =
            View { storage, offset: self.size(offset)?, shape: self.sizes(shape)?, strides: self.sizes(strides)? };
        (unchanged && view.shape.len() == view.strides.len() && self.is_plain(gradient, hooks)).then_some(view)
    }

    fn is_plain(&self, gradient: Id, hooks: Id) -> bool {
        let no_hooks = matches!(self.object(hooks), Object::None) || self.is_empty_dict(hooks);
        no_hooks && matches!(self.object(gradient), Object::Bool)
    }

    fn is_empty_dict(&self, id: Id) -> bool {
        matches!(self.object(id), Object::Dict { items, .. } if items.is_empty())
    }

    /// The attributes of an ordered dictionary (`_metadata`, versions of modules) say nothing about tensors.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let object = self.top()?;
        match (self.object(object), self.object(state)) {
            (Object::Dict { ordered: true, .. }, Object::Dict { .. }) => Ok(()),
            _ => Err(self.malformed("an object is changed that is no dictionary")),
        }
    }

    fn table(&self, root: Id) -> Result<Vec<Claim<'a>>> {
        let items = self.entries(root)?;
        let inner = items.iter().find(|(key, _)| matches!(self.object(*key), Object::Text("state_dict")));
        let items = inner.map_or(Ok(items), |(_, inner)| self.entries(*inner))?;
        let mut claims = Vec::new();
        for (key, value) in items {
            match (self.object(*key), self.object(*value)) {
                (Object::Text(name), Object::Tensor(view)) => claims.push(view.claim(name)?),
                (Object::Text(_), Object::None | Object::Bool | Object::Int(_) | Object::Float | Object::Text(_)) => {}
                (Object::Text(name), _) => {
                    let problem = "is no tensor; save the table of tensors (state_dict) alone".to_string();
                    return Err(PickleError::Tensor { name: shown(name), problem });
                }
                _ => return Err(PickleError::Root("a table without names")),
            }
        }
        Ok(claims)
    }

    fn entries(&self, id: Id) -> Result<&[(Id, Id)]> {
        match self.object(id) {
            Object::Dict { items, .. } => Ok(items),
            Object::Tensor(_) => Err(PickleError::Root("one tensor")),
            Object::List | Object::Tuple(_) => Err(PickleError::Root("a list")),
            _ => Err(PickleError::Root("a single value")),
        }
    }
}

impl<'a> View<'a> {
    /// Checks that the view is one run of elements inside its storage.
    fn claim(&self, name: &'a str) -> Result<Claim<'a>> {
        let refuse = |problem: String| PickleError::Tensor { name: shown(name), problem };
        let product = self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let elements = product.ok_or_else(|| refuse(format!("the shape {:?} is impossible", self.shape)))?;
        let end = self.offset.checked_add(elements).filter(|end| *end <= self.storage.elements);
        if end.is_none() {
            let (shape, offset, stored) = (&self.shape, self.offset, self.storage.elements);
            return Err(refuse(format!("{shape:?} from element {offset} do not fit the {stored} elements stored")));
        }
        if elements > 0 && !self.is_contiguous() {
            let (shape, strides) = (&self.shape, &self.strides);
            let problem = format!("{shape:?} with strides {strides:?} is not contiguous; save it after .contiguous()");
            return Err(refuse(problem));
        }
        Ok(Claim { name, shape: self.shape.clone(), storage: self.storage, offset: self.offset, elements })
    }

    /// Whether elements lie in row order; strides of dimensions of one element never matter.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1usize;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected = expected.saturating_mul(size);
            fits
        })
    }
}
