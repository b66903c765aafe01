//! A pickle read as plain data: what was built from which names, never by calling them.
//!
//! Owns the opcodes that PyTorch writes. Refuses to run or import anything: a call is kept as the name and its
//! arguments, and whoever reads the tree decides what that means. Values lie in one list and refer to each other by
//! number, so that neither cycles nor deep nesting in a hostile file cost a stack.

use std::collections::BTreeMap;

/// Why a pickle could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// The bytes end inside a value.
    #[error("the pickle ends in the middle of a value, at byte {0}")]
    End(usize),
    /// An opcode that PyTorch's files do not have.
    #[error("the pickle has the opcode {opcode:#04x} at byte {at}, which no saved network needs")]
    Opcode {
        /// Its code.
        opcode: u8,
        /// Where.
        at: usize,
    },
    /// Opcodes in an order that makes no sense.
    #[error("the pickle is damaged at byte {at}: {what}")]
    Damaged {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Number of a value in [`Pickle::values`].
pub type Id = usize;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes, or a whole number that needs more than 64 bits.
    Bytes(Vec<u8>),
    /// A list or set.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dictionary, in order.
    Dict(Vec<(Id, Id)>),
    /// A class or function by its full name, such as `collections.OrderedDict`.
    Name(String),
    /// What calling `callee` with `args` would make, with what was put into it afterwards.
    Object {
        /// The name called.
        callee: Id,
        /// A tuple.
        args: Id,
        /// Attributes set afterwards.
        state: Option<Id>,
        /// Entries put in afterwards (dictionaries), in order.
        items: Vec<(Id, Id)>,
    },
    /// Something outside the pickle, by this description.
    Persistent(Id),
}

/// A pickle's values.
#[derive(Debug)]
pub struct Pickle {
    /// All values; the tree starts at [`Self::root`].
    pub values: Vec<Value>,
    /// The outermost value.
    pub root: Id,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
}

impl Reader<'_> {
    fn damaged<T>(&self, what: &'static str) -> Result<T, PickleError> {
        Err(PickleError::Damaged { at: self.at, what })
    }

    fn take(&mut self, n: usize) -> Result<&[u8], PickleError> {
        let end = self.at.checked_add(n).filter(|&e| e <= self.bytes.len()).ok_or(PickleError::End(self.at))?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    /// A little-endian whole number of `n` bytes.
    fn number(&mut self, n: usize) -> Result<u64, PickleError> {
        Ok(self.take(n)?.iter().rev().fold(0, |sum, &b| (sum << 8) | u64::from(b)))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or(PickleError::End(self.at))?;
        let text = String::from_utf8_lossy(&rest[..len]).into_owned();
        self.at += len + 1;
        Ok(text)
    }

    fn text(&mut self, n: usize) -> Result<Value, PickleError> {
        match String::from_utf8(self.take(n)?.to_vec()) {
            Ok(text) => Ok(Value::Str(text)),
            Err(_) => self.damaged("a text is not UTF-8"),
        }
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        // Values below the last mark belong to a list that is not finished.
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return self.damaged("a value is missing");
        }
        self.stack.pop().ok_or(PickleError::Damaged { at: self.at, what: "a value is missing" })
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => self.damaged("a mark is missing"),
        }
    }

    fn top(&self) -> Result<Id, PickleError> {
        self.stack.last().copied().ok_or(PickleError::Damaged { at: self.at, what: "a value is missing" })
    }

    fn tuple(&mut self, n: usize) -> Result<(), PickleError> {
        let mut parts = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        parts.reverse();
        self.push(Value::Tuple(parts));
        Ok(())
    }

    fn append(&mut self, new: Vec<Id>) -> Result<(), PickleError> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::List(items) => items.extend(new),
            // A class of its own that is filled like a list: what is in it does not matter here.
            Value::Object { .. } => {}
            _ => return self.damaged("only lists can be appended to"),
        }
        Ok(())
    }

    fn set_items(&mut self, new: Vec<Id>) -> Result<(), PickleError> {
        let dict = self.top()?;
        let pairs = new.as_chunks::<2>().0.iter().map(|&[k, v]| (k, v));
        match &mut self.values[dict] {
            Value::Dict(items) | Value::Object { items, .. } => items.extend(pairs),
            _ => return self.damaged("only dictionaries take entries"),
        }
        Ok(())
    }

    fn call(&mut self) -> Result<(), PickleError> {
        let (args, callee) = (self.pop()?, self.pop()?);
        self.push(Value::Object { callee, args, state: None, items: Vec::new() });
        Ok(())
    }

    fn run(mut self) -> Result<Pickle, PickleError> {
        loop {
            let (at, opcode) = (self.at, self.number(1)? as u8);
            match opcode {
                // PROTO, FRAME.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickle { values: self.values, root });
                }
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.since_mark()?),
                b'2' => self.stack.push(self.top()?),
                b'N' => self.push(Value::None),
                0x88 => self.push(Value::Bool(true)),
                0x89 => self.push(Value::Bool(false)),
                b'K' | b'M' => {
                    let n = self.number(if opcode == b'K' { 1 } else { 2 })?;
                    self.push(Value::Int(n as i64));
                }
                b'J' => {
                    let n = self.number(4)? as u32 as i32;
                    self.push(Value::Int(n.into()));
                }
                0x8a => {
                    let len = self.number(1)? as usize;
                    let bytes = self.take(len)?.to_vec();
                    let value = match bytes.len() {
                        0 => Value::Int(0),
                        len @ 1..=8 => {
                            let n = bytes.iter().rev().fold(0_u64, |sum, &b| (sum << 8) | u64::from(b));
                            let unused = 64 - 8 * len as u32;
                            Value::Int(((n << unused) as i64) >> unused)
                        }
                        _ => Value::Bytes(bytes),
                    };
                    self.push(value);
                }
                b'G' => {
                    // The one number with its high byte first.
                    let n = self.number(8)?.swap_bytes();
                    self.push(Value::Float(f64::from_bits(n)));
                }
                b'X' | 0x8c | 0x8d => {
                    let len = self.number(match opcode {
                        b'X' => 4,
                        0x8c => 1,
                        _ => 8,
                    })? as usize;
                    let text = self.text(len)?;
                    self.push(text);
                }
                b'B' | b'C' | 0x8e | b'T' | b'U' => {
                    let len = self.number(match opcode {
                        b'B' | b'T' => 4,
                        b'C' | b'U' => 1,
                        _ => 8,
                    })? as usize;
                    let bytes = self.take(len)?.to_vec();
                    self.push(Value::Bytes(bytes));
                }
                b']' | 0x8f => self.push(Value::List(Vec::new())),
                b'}' => self.push(Value::Dict(Vec::new())),
                b')' => self.push(Value::Tuple(Vec::new())),
                0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
                b't' => {
                    let parts = self.since_mark()?;
                    self.push(Value::Tuple(parts));
                }
                b'l' | 0x91 => {
                    let parts = self.since_mark()?;
                    self.push(Value::List(parts));
                }
                b'd' => {
                    let parts = self.since_mark()?;
                    self.push(Value::Dict(parts.as_chunks::<2>().0.iter().map(|&[k, v]| (k, v)).collect()));
                }
                b'a' => {
                    let new = self.pop()?;
                    self.append(vec![new])?;
                }
                b'e' | 0x90 => {
                    let new = self.since_mark()?;
                    self.append(new)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(vec![key, value])?;
                }
                b'u' => {
                    let new = self.since_mark()?;
                    self.set_items(new)?;
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.push(Value::Name(name));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.values[module], &self.values[name]) {
                        (Value::Str(module), Value::Str(name)) => {
                            let name = format!("{module}.{name}");
                            self.push(Value::Name(name));
                        }
                        _ => return self.damaged("a name is no text"),
                    }
                }
                b'R' | 0x81 => self.call()?,
                b'b' => {
                    let (new, object) = (self.pop()?, self.top()?);
                    // Attributes of anything else (a dictionary of its own class, say) do not matter here.
                    if let Value::Object { state, .. } = &mut self.values[object] {
                        *state = Some(new);
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Value::Persistent(id));
                }
                b'q' | b'r' | 0x94 => {
                    let n = match opcode {
                        b'q' => self.number(1)?,
                        b'r' => self.number(4)?,
                        _ => self.memo.len() as u64,
                    };
                    let id = self.top()?;
                    self.memo.insert(n, id);
                }
                b'h' | b'j' => {
                    let n = self.number(if opcode == b'h' { 1 } else { 4 })?;
                    match self.memo.get(&n) {
                        Some(&id) => self.stack.push(id),
                        None => return self.damaged("a value is used before it is there"),
                    }
                }
                opcode => return Err(PickleError::Opcode { opcode, at }),
            }
        }
    }
}

impl Pickle {
    /// Reads the first pickle in `bytes`.
    pub fn read(bytes: &[u8]) -> Result<Self, PickleError> {
        let reader =
            Reader { bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: BTreeMap::new() };
        reader.run()
    }

    /// The value of a number.
    pub fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// The text of a value.
    pub fn str(&self, id: Id) -> Option<&str> {
        match &self.values[id] {
            Value::Str(text) | Value::Name(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number.
    pub fn int(&self, id: Id) -> Option<i64> {
        match &self.values[id] {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The elements of a list or tuple.
    pub fn list(&self, id: Id) -> Option<&[Id]> {
        match &self.values[id] {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dictionary (of a class of its own, too).
    pub fn entries(&self, id: Id) -> &[(Id, Id)] {
        match &self.values[id] {
            Value::Dict(items) | Value::Object { items, .. } => items,
            _ => &[],
        }
    }

    /// The entry of a dictionary under a text.
    pub fn get(&self, id: Id, key: &str) -> Option<Id> {
        self.entries(id).iter().find(|(k, _)| self.str(*k) == Some(key)).map(|(_, v)| *v)
    }

    /// What was called to make an object, and with which arguments.
    pub fn called(&self, id: Id) -> Option<(&str, &[Id])> {
        match &self.values[id] {
            Value::Object { callee, args, .. } => Some((self.str(*callee)?, self.list(*args)?)),
            _ => None,
        }
    }

    /// The attribute of an object, where attributes lie in a dictionary.
    pub fn attribute(&self, id: Id, name: &str) -> Option<Id> {
        match &self.values[id] {
            Value::Object { state: Some(state), .. } => self.get(*state, name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_data_are_read() {
        // {"a": [1, -2, 3.5, None, True], "b": ("x",)} as protocol 2 writes it.
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bX\x01\x00\x00\x00x\x85u.";
        let p = Pickle::read(bytes).unwrap();
        let list = p.list(p.get(p.root, "a").unwrap()).unwrap();
        let values: Vec<&Value> = list.iter().map(|&id| p.value(id)).collect();
        assert_eq!(values, [&Value::Int(1), &Value::Int(-2), &Value::Float(3.5), &Value::None, &Value::Bool(true)]);
        assert_eq!(p.str(p.list(p.get(p.root, "b").unwrap()).unwrap()[0]), Some("x"));
    }

    #[test]
    fn a_call_is_kept_and_never_made() {
        let p = Pickle::read(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap();
        let (name, args) = p.called(p.root).unwrap();
        assert_eq!((name, p.str(args[0])), ("os.system", Some("true")));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let good = b"\x80\x02}(X\x01\x00\x00\x00a]K\x01au.";
        assert!(Pickle::read(good).is_ok());
        for end in 0..good.len() {
            assert!(Pickle::read(&good[..end]).is_err(), "{end}");
        }
        for bytes in
            [&b"\x80\x02."[..], b"a.", b"u.", b"R.", b"h\x07.", b"(0.", b"\x93.", b"b.", b"\xff", b"X\xff\xff\xff\xff"]
        {
            assert!(Pickle::read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn nesting_costs_no_stack() {
        let mut bytes = vec![b']'; 3_000_000];
        bytes.extend(vec![b'a'; 2_999_999]);
        bytes.push(b'.');
        assert_eq!(Pickle::read(&bytes).unwrap().values.len(), 3_000_000);
    }
}
