//! Machine code inside the program, taken in by the feature `embed-kernels`.

use crate::driver::Target;
use crate::kernels::{self, Source};

/// One file's machine code.
pub struct Embedded {
    /// Kernel file without extension.
    pub source: &'static str,
    /// Architecture.
    pub arch: &'static str,
    /// As [`kernels::source_hash`] gave it.
    pub hash: &'static str,
    /// A cubin.
    pub code: &'static [u8],
}

#[cfg(feature = "embed-kernels")]
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
/// Everything that this build holds.
#[cfg(not(feature = "embed-kernels"))]
pub static EMBEDDED: &[Embedded] = &[];

/// What there is for a source.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Machine code of this very source.
    Code(&'static [u8]),
    /// Machine code of another version of the source.
    Stale,
    /// Nothing for this architecture.
    Absent,
}

pub(crate) fn find(embedded: &[Embedded], source: &Source, target: &Target) -> Match {
    let Target::Cubin(arch) = target else { return Match::Absent };
    let mut entries = embedded.iter().filter(|entry| entry.source == source.name && entry.arch == arch);
    let Some(first) = entries.next() else { return Match::Absent };
    let hash = kernels::source_hash(source, target);
    let same = std::iter::once(first).chain(entries).find(|entry| entry.hash == hash);
    same.map_or(Match::Stale, |entry| Match::Code(entry.code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    #[test]
    fn only_code_of_the_same_source_and_architecture_matches() {
        let source = Source { name: "a".into(), text: "one".into() };
        let target = Target::Cubin("sm_80".into());
        let hash: &'static str = kernels::source_hash(&source, &target).leak();
        let embedded = [Embedded { source: "a", arch: "sm_80", hash, code: b"code" }];
        assert_eq!(find(&embedded, &source, &target), Match::Code(b"code"));
        assert_eq!(find(&embedded, &Source { text: "two".into(), ..source.clone() }, &target), Match::Stale);
        assert_eq!(find(&embedded, &source, &Target::Cubin("sm_90a".into())), Match::Absent);
        assert_eq!(find(&embedded, &source, &Target::Ptx("sm_80".into())), Match::Absent);
        assert_eq!(find(&embedded, &Source { name: "b".into(), ..source }, &target), Match::Absent);
    }

    #[test]
    fn what_is_embedded_serves_the_sources_of_this_build() {
        for entry in EMBEDDED {
            let sources = kernels::sources();
            let source = sources.iter().find(|source| source.name == entry.source).expect("a source of this build");
            assert_eq!(find(EMBEDDED, source, &Target::Cubin(entry.arch.into())), Match::Code(entry.code));
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let entry = |source: &str| manifest::Entry {
            source: source.into(),
            arch: "sm_80".into(),
            hash: "0f".into(),
            file: format!("{source}-sm_80.cubin"),
        };
        let entries = vec![entry("a"), entry("b")];
        let text: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
        assert_eq!(manifest::parse(&text), Ok(entries));
        assert!(manifest::parse("a sm_80 0f").is_err());
    }
}
