//! For which machines a program file was built, read off the file.
//!
//! Owns the answer for Linux programs (ELF). Refuses to run the file.

use std::fmt;

use object::{Endianness, elf, read::elf::FileHeader};

/// What a Linux program needs of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltFor {
    /// Architecture as `uname -m` and Python's `platform.machine()` call it.
    pub arch: &'static str,
    /// Oldest glibc that has all it calls; none for a program that needs no C library.
    pub glibc: Option<(u32, u32)>,
}

impl BuiltFor {
    /// Reads a program's bytes; `None` when it is no Linux program of a known architecture.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let header = elf::FileHeader64::<Endianness>::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        let arch = match header.e_machine(endian) {
            elf::EM_X86_64 => "x86_64",
            elf::EM_AARCH64 => "aarch64",
            elf::EM_RISCV => "riscv64",
            _ => return None,
        };
        let sections = header.sections(endian, bytes).ok()?;
        let mut glibc = None;
        if let Some((mut files, link)) = sections.gnu_verneed(endian, bytes).ok()? {
            let strings = sections.strings(endian, bytes, link).ok()?;
            while let Some((_, mut versions)) = files.next().ok()? {
                while let Some(version) = versions.next().ok()? {
                    glibc = glibc.max(number(version.name(endian, strings).ok()?));
                }
            }
        }
        Some(Self { arch, glibc })
    }
}

/// `GLIBC_2.34` as numbers.
fn number(name: &[u8]) -> Option<(u32, u32)> {
    let mut parts = std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl fmt::Display for BuiltFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux on {}", self.arch)?;
        match self.glibc {
            Some((major, minor)) => write!(f, " with glibc {major}.{minor} or newer"),
            None => f.write_str(", any C library"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(number(b"GLIBC_2.2.5"), Some((2, 2)));
        assert!(number(b"GLIBC_2.34") > number(b"GLIBC_2.9"));
        assert_eq!(number(b"GCC_3.0"), None);
        assert_eq!(BuiltFor::read(b"#!/bin/sh\n"), None);
    }
}
