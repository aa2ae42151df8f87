//! Shards whose files agree with their checksums and still lie.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::data::tokens::{IMAGE_PLACEHOLDER, hex};
use sha2::{Digest, Sha256};

/// A directory that disappears with the test.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("vila-shard-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn meta() -> ShardMeta {
    let source = SourceFile { path: "corpus.jsonl".to_owned(), bytes: 1, sha256: String::new() };
    ShardMeta { tokenizer: "fingerprint".to_owned(), sources: vec![source], ..ShardMeta::default() }
}

const DOCUMENTS: u64 = 3;

/// Three documents: text, two images, the same image again.
pub(super) fn write(dir: &Path) {
    let mut writer = ShardWriter::create(dir, meta()).unwrap();
    let one = writer.add_image(ImageBlob { bytes: b"one", name: "one.png", width: 2, height: 3 }).unwrap();
    let two = writer.add_image(ImageBlob { bytes: b"two!", name: "two.png", width: 4, height: 5 }).unwrap();
    let again = writer.add_image(ImageBlob { bytes: b"one", name: "copy.png", width: 2, height: 3 }).unwrap();
    assert_eq!((one, again), (ImageId(0), one));
    let image = IMAGE_PLACEHOLDER;
    let mut push = |tokens: &[u32], loss: &[bool], images: &[ImageId], source_line| {
        writer.push(&Sample { tokens, loss, images, source: 0, source_line }).unwrap();
    };
    push(&[1, 5, 6], &[false, true, true], &[], 1);
    push(&[1, image, 7, image, 8], &[false, false, true, false, true], &[two, one], 2);
    push(&[1, image, 9], &[false, false, true], &[again], 4);
    writer.note_skipped("bad_image", 1);
    writer.finish().unwrap();
}

/// Rewrites checksums and manifest after a file was changed, as a careful liar would.
pub(super) fn reseal(dir: &Path, change: impl FnOnce(&mut Manifest)) {
    let mut manifest = Manifest::read(dir).unwrap();
    let mut checksums = Vec::new();
    for name in CHECKED {
        let bytes = fs::read(dir.join(name)).unwrap();
        checksums.extend(bytes.chunks(BLOCK_BYTES).flat_map(|block| crc32c::crc32c(block).to_le_bytes()));
    }
    fs::write(dir.join(CHECKSUMS), checksums).unwrap();
    for (name, entry) in &mut manifest.files {
        let bytes = fs::read(dir.join(name)).unwrap();
        *entry = FileEntry { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) };
    }
    change(&mut manifest);
    fs::write(dir.join(MANIFEST), manifest.to_bytes().unwrap()).unwrap();
}

fn with_sample(dir: &Path, index: usize, change: impl FnOnce(&mut SampleRecord)) {
    change_record(&dir.join(SAMPLES), index, change);
    reseal(dir, |_| ());
}

fn change_record<T: bytemuck::Pod>(path: &Path, index: usize, change: impl FnOnce(&mut T)) {
    let mut bytes = fs::read(path).unwrap();
    let slot = &mut bytes[index * size_of::<T>()..(index + 1) * size_of::<T>()];
    let mut record: T = bytemuck::pod_read_unaligned(slot);
    change(&mut record);
    slot.copy_from_slice(bytemuck::bytes_of(&record));
    fs::write(path, bytes).unwrap();
}

#[test]
fn records_have_the_documented_size() {
    assert_eq!((size_of::<SampleRecord>(), size_of::<ImageRecord>()), (40, 40));
}

#[test]
fn what_is_written_is_read() {
    let scratch = Scratch::new("roundtrip");
    let dir = scratch.0.join("shard");
    write(&dir);
    let reader = ShardReader::open(&dir).unwrap();
    reader.verify().unwrap();
    let counts =
        Counts { samples: 3, tokens: 11, targets: 5, image_uses: 3, images: 2, image_bytes: 7, name_bytes: 14 };
    assert_eq!(reader.counts(), counts);
    assert_eq!(reader.manifest().skipped.get("bad_image"), Some(&1));
    let second = reader.sample(1).unwrap();
    assert_eq!(second.tokens, [1, IMAGE_PLACEHOLDER, 7, IMAGE_PLACEHOLDER, 8]);
    assert_eq!(second.loss.iter().collect::<Vec<_>>(), [false, false, true, false, true]);
    assert_eq!(second.images, [ImageId(1), ImageId(0)]);
    assert_eq!(reader.origin(&second.record), "corpus.jsonl:2");
    assert_eq!(reader.image(ImageId(1)).unwrap(), b"two!");
    assert_eq!(reader.image_name(ImageId(0)).unwrap(), "one.png");
    let third = reader.sample(2).unwrap();
    assert_eq!((third.images, third.loss.count(), third.record.source_line), (&[ImageId(0)][..], 1, 4));
    assert!(matches!(reader.sample(3), Err(ShardError::OutOfRange { what: "sample", index: 3, count: 3, .. })));
    assert!(matches!(reader.image(ImageId(2)), Err(ShardError::OutOfRange { what: "image", .. })));
}

#[test]
fn lying_records_are_refused() {
    type Lie = fn(&mut SampleRecord);
    let lies: [(Lie, &str); 8] = [
        (|record| record.token_offset = u64::MAX, "token_offset"),
        (|record| record.token_count = 100, "token_offset"),
        (|record| record.image_offset = u64::MAX - 1, "image_offset"),
        (|record| record.image_count = 4, "image_offset"),
        (|record| record.image_count = 1, "image_count"),
        (|record| record.target_count = 1, "target_count"),
        (|record| record.target_count = 6, "target_count"),
        (|record| record.source = 1, "source"),
    ];
    for (number, (lie, expected)) in lies.into_iter().enumerate() {
        let scratch = Scratch::new(&format!("lie-{number}"));
        let dir = scratch.0.join("shard");
        write(&dir);
        with_sample(&dir, 1, lie);
        let reader = ShardReader::open(&dir).unwrap();
        match reader.sample(1) {
            Err(ShardError::Record { field, index: 1, .. }) => assert_eq!(field, expected, "lie {number}"),
            other => panic!("lie {number}: {other:?}"),
        }
        assert!(reader.verify().is_err());
    }
}

#[test]
fn a_document_without_tokens_is_refused() {
    let scratch = Scratch::new("empty");
    let dir = scratch.0.join("shard");
    write(&dir);
    with_sample(&dir, 0, |record| record.token_count = 0);
    let error = ShardReader::open(&dir).unwrap().record(0).unwrap_err();
    assert!(matches!(error, ShardError::Record { field: "token_count", .. }), "{error}");
}

#[test]
fn lying_images_are_refused() {
    type Lie = fn(&mut ImageRecord);
    let lies: [(Lie, &str); 3] = [
        (|record| record.offset = u64::MAX, "offset"),
        (|record| record.length = 5, "offset"),
        (|record| record.name_offset = 8, "name_offset"),
    ];
    for (number, (lie, expected)) in lies.into_iter().enumerate() {
        let scratch = Scratch::new(&format!("image-lie-{number}"));
        let dir = scratch.0.join("shard");
        write(&dir);
        change_record(&dir.join(IMAGE_INDEX), 1, lie);
        reseal(&dir, |_| ());
        match ShardReader::open(&dir).unwrap().image(ImageId(1)) {
            Err(ShardError::Record { field, index: 1, .. }) => assert_eq!(field, expected),
            other => panic!("lie {number}: {other:?}"),
        }
    }
}

#[test]
fn an_image_that_does_not_exist_is_refused() {
    let scratch = Scratch::new("uses");
    let dir = scratch.0.join("shard");
    write(&dir);
    change_record(&dir.join(IMAGE_USES), 0, |image: &mut ImageId| image.0 = 7);
    reseal(&dir, |_| ());
    let error = ShardReader::open(&dir).unwrap().sample(1).unwrap_err();
    assert!(matches!(error, ShardError::Record { field: "images", .. }), "{error}");
}

#[test]
fn counts_must_fit_the_files_and_the_records() {
    type Lie = fn(&mut Counts);
    let lengths: [(Lie, &str); 4] = [
        (|counts| counts.tokens += 1, TOKENS),
        (|counts| counts.samples -= 1, SAMPLES),
        (|counts| counts.image_uses = 0, IMAGE_USES),
        (|counts| counts.image_bytes = 8, IMAGES),
    ];
    for (number, (lie, file)) in lengths.into_iter().enumerate() {
        let scratch = Scratch::new(&format!("counts-{number}"));
        let dir = scratch.0.join("shard");
        write(&dir);
        reseal(&dir, |manifest| lie(&mut manifest.counts));
        match ShardReader::open(&dir).err() {
            Some(ShardError::Length { path, .. }) => assert!(path.ends_with(file), "{}", path.display()),
            other => panic!("{number}: {other:?}"),
        }
    }
    let scratch = Scratch::new("totals");
    let dir = scratch.0.join("shard");
    write(&dir);
    reseal(&dir, |manifest| manifest.counts.targets = 6);
    let error = ShardReader::open(&dir).unwrap().verify().unwrap_err();
    assert!(matches!(&error, ShardError::Manifest { field, .. } if field == "counts.targets"), "{error}");
    reseal(&dir, |manifest| manifest.counts.tokens = u64::MAX);
    assert!(matches!(ShardReader::open(&dir), Err(ShardError::Manifest { .. })));
}

#[test]
fn foreign_manifests_are_refused() {
    let scratch = Scratch::new("foreign");
    let dir = scratch.0.join("shard");
    write(&dir);
    reseal(&dir, |manifest| manifest.version = 2);
    assert!(matches!(ShardReader::open(&dir), Err(ShardError::ForeignVersion { found: 2, .. })));
    fs::write(dir.join(MANIFEST), r#"{"format": "webdataset", "version": 1}"#).unwrap();
    assert!(matches!(ShardReader::open(&dir), Err(ShardError::ForeignFormat { found, .. }) if found == "webdataset"));
    fs::write(dir.join(MANIFEST), "{").unwrap();
    assert!(matches!(ShardReader::open(&dir), Err(ShardError::Manifest { .. })));
    fs::remove_file(dir.join(MANIFEST)).unwrap();
    assert!(matches!(ShardReader::open(&dir), Err(ShardError::NotAShard { .. })));
}

#[test]
fn impossible_samples_are_not_written() {
    let scratch = Scratch::new("impossible");
    let mut writer = ShardWriter::create(scratch.0.join("shard"), meta()).unwrap();
    let image = writer.add_image(ImageBlob { bytes: b"one", name: "one.png", width: 2, height: 3 }).unwrap();
    let good =
        Sample { tokens: &[1, IMAGE_PLACEHOLDER], loss: &[true, false], images: &[image], source: 0, source_line: 1 };
    for bad in [
        Sample { tokens: &[], loss: &[], images: &[], ..good },
        Sample { loss: &[true], ..good },
        Sample { images: &[], ..good },
        Sample { images: &[ImageId(9)], ..good },
        Sample { loss: &[true, true], ..good },
        Sample { source: 1, ..good },
    ] {
        assert!(matches!(writer.push(&bad), Err(ShardError::BadSample { index: 0, .. })), "{bad:?}");
    }
    writer.push(&good).unwrap();
    assert_eq!(writer.finish().unwrap().counts.samples, 1);
}

#[test]
fn an_unfinished_shard_leaves_nothing_and_a_finished_one_is_not_overwritten() {
    let scratch = Scratch::new("atomic");
    let dir = scratch.0.join("shard");
    drop(ShardWriter::create(&dir, meta()).unwrap());
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    let leftover = scratch.0.join(".shard.partial-1-7");
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join(TOKENS), "torn").unwrap();
    write(&dir);
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "the leftover of a killed writer is removed");
    assert!(matches!(ShardWriter::create(&dir, meta()), Err(ShardError::Exists { .. })));
}

#[test]
fn long_files_have_a_checksum_per_block() {
    let scratch = Scratch::new("blocks");
    let dir = scratch.0.join("shard");
    let mut writer = ShardWriter::create(&dir, meta()).unwrap();
    let tokens: Vec<u32> = (0..100_000).collect();
    let loss = vec![true; tokens.len()];
    for source_line in 1..=7 {
        writer.push(&Sample { tokens: &tokens, loss: &loss, images: &[], source: 0, source_line }).unwrap();
    }
    writer.finish().unwrap();
    let path = dir.join(TOKENS);
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * BLOCK_BYTES + 17] ^= 1;
    fs::write(&path, bytes).unwrap();
    let reader = ShardReader::open(&dir).unwrap();
    let touches = |index: u64| (index * 400_000..(index + 1) * 400_000).contains(&(2 * BLOCK_BYTES as u64 + 17));
    for index in 0..7 {
        let first = index * 400_000 / BLOCK_BYTES as u64;
        let last = ((index + 1) * 400_000 - 1) / BLOCK_BYTES as u64;
        assert!(!touches(index) || first <= 2);
        assert_eq!(reader.sample(index).is_err(), (first..=last).contains(&2), "sample {index}");
    }
    let error = reader.verify().unwrap_err();
    assert!(matches!(error, ShardError::Damaged { start: 2_097_152, .. }), "{error}");
}

#[test]
fn every_flipped_bit_is_found() {
    let scratch = Scratch::new("flips");
    let dir = scratch.0.join("shard");
    write(&dir);
    let mut flips = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            let outcome = ShardReader::open(&dir).and_then(|reader| {
                let _ = (0..DOCUMENTS).try_for_each(|index| reader.sample(index).map(drop));
                reader.verify()
            });
            // The only bytes without meaning are the blanks of the manifest.
            let blank = path.ends_with(MANIFEST) && whole[at].is_ascii_whitespace();
            assert!(outcome.is_err() || blank, "{} byte {at}", path.display());
            flips += 1;
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(flips > 1_000);
    ShardReader::open(&dir).unwrap().verify().unwrap();
}

#[test]
fn two_writers_of_one_shard() {
    let scratch = Scratch::new("two");
    let dir = scratch.0.join("shard");
    let sample = |tokens| Sample { tokens, loss: &[false, true], images: &[], source: 0, source_line: 1 };
    let mut first = ShardWriter::create(&dir, meta()).unwrap();
    first.push(&sample(&[1, 5])).unwrap();
    let mut second = ShardWriter::create(&dir, meta()).unwrap();
    second.push(&sample(&[1, 6])).unwrap();
    first.finish().unwrap();
    assert!(matches!(second.finish(), Err(ShardError::Exists { .. })));
    let reader = ShardReader::open(&dir).unwrap();
    reader.verify().unwrap();
    assert_eq!(reader.sample(0).unwrap().tokens, [1, 5]);
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
}

/// Changes an array of records of a file.
fn with_records<T: bytemuck::Pod>(dir: &Path, name: &str, change: impl FnOnce(&mut [T])) {
    let mut records: Vec<T> = bytemuck::allocation::pod_collect_to_vec(&fs::read(dir.join(name)).unwrap());
    change(&mut records);
    fs::write(dir.join(name), bytemuck::cast_slice(&records)).unwrap();
}

#[test]
fn every_rule_of_the_format_is_verified() {
    type Lie = fn(&Path, &mut Manifest);
    let lies: &[(&str, Lie)] = &[
        ("an image is a target", |dir, manifest| {
            with_records(dir, LOSS, |bits: &mut [u8]| bits[0] |= 1 << 4);
            with_records(dir, SAMPLES, |records: &mut [SampleRecord]| records[1].target_count += 1);
            manifest.counts.targets += 1;
        }),
        ("a bit after the last token", |dir, _| with_records(dir, LOSS, |bits: &mut [u8]| bits[1] |= 0x80)),
        ("a gap between records", |dir, _| {
            with_records(dir, SAMPLES, |records: &mut [SampleRecord]| {
                records[0].token_count -= 1;
                records[0].target_count -= 1;
            });
        }),
        ("images of another document", |dir, _| {
            with_records(dir, SAMPLES, |records: &mut [SampleRecord]| records[0].image_offset = 1);
        }),
        ("line 0", |dir, _| with_records(dir, SAMPLES, |records: &mut [SampleRecord]| records[0].source_line = 0)),
        ("another order than the source's", |dir, _| {
            with_records(dir, SAMPLES, |records: &mut [SampleRecord]| records[1].source_line = 9);
        }),
        ("overlapping images", |dir, _| {
            with_records(dir, IMAGE_INDEX, |records: &mut [ImageRecord]| {
                records[1].offset = 2;
                records[1].crc32c = crc32c::crc32c(b"etwo");
                records[1].length = 4;
            });
        }),
        ("overlapping names", |dir, _| {
            with_records(dir, IMAGE_INDEX, |records: &mut [ImageRecord]| records[1].name_offset = 0);
        }),
        ("names with a rest", |dir, manifest| {
            let names = [&fs::read(dir.join(IMAGE_NAMES)).unwrap()[..], b"x"].concat();
            fs::write(dir.join(IMAGE_NAMES), names).unwrap();
            manifest.counts.name_bytes += 1;
        }),
        ("one image twice", |dir, manifest| {
            fs::write(dir.join(IMAGES), b"oneone").unwrap();
            with_records(dir, IMAGE_INDEX, |records: &mut [ImageRecord]| {
                (records[1].length, records[1].crc32c) = (3, records[0].crc32c);
            });
            manifest.counts.image_bytes = 6;
        }),
        ("an image without pixels", |dir, _| {
            with_records(dir, IMAGE_INDEX, |records: &mut [ImageRecord]| records[0].width = 0);
        }),
        ("a name that is not UTF-8", |dir, _| with_records(dir, IMAGE_NAMES, |names: &mut [u8]| names[0] = 0xFF)),
        ("a file that nothing names", |dir, _| fs::write(dir.join("notes.txt"), "x").unwrap()),
        ("a file that no shard has", |dir, manifest| {
            let entry = manifest.files[TOKENS].clone();
            fs::copy(dir.join(TOKENS), dir.join("more.bin")).unwrap();
            manifest.files.insert("more.bin".into(), entry);
        }),
        ("a file outside", |_, manifest| {
            let entry = manifest.files[TOKENS].clone();
            manifest.files.insert("../shard/tokens.bin".into(), entry);
        }),
        ("a file that is not listed", |_, manifest| drop(manifest.files.remove(IMAGES))),
        ("another largest token", |_, manifest| manifest.largest_token = Some(8)),
        ("another tokenizer", |dir, manifest| {
            fs::write(dir.join(TOKENIZER), "{}").unwrap();
            manifest.files.insert(TOKENIZER.into(), FileEntry { bytes: 2, sha256: hex(&Sha256::digest("{}")) });
        }),
    ];
    for (number, (what, lie)) in lies.iter().enumerate() {
        let scratch = Scratch::new(&format!("rule-{number}"));
        let dir = scratch.0.join("shard");
        write(&dir);
        let mut manifest = Manifest::read(&dir).unwrap();
        lie(&dir, &mut manifest);
        fs::write(dir.join(MANIFEST), manifest.to_bytes().unwrap()).unwrap();
        reseal(&dir, |_| ());
        let found = ShardReader::open(&dir).and_then(|reader| reader.verify());
        assert!(found.is_err(), "{what} passes");
    }
}
