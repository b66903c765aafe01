use proptest::prelude::*;

use super::*;
use crate::{InputSpec, artifact::ArtifactWriter, event::NoSink, sources::scan};

struct Here {
    dir: tempfile::TempDir,
    store: Store,
    spec: BundleSpec,
}

/// A project with two pictures that are input files, and one finished stage.
fn project() -> Here {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let input = dir.path().join("in");
    fs::create_dir(&input).unwrap();
    fs::write(input.join("ä.png"), vec![1; 3000]).unwrap();
    fs::write(input.join("b.png"), vec![2; 70_000]).unwrap();
    let images = scan(
        &store,
        &InputSpec { name: "images".into(), kind: "images".into(), path: input, extensions: None, recursive: true },
        &CancelToken::new(),
        &NoSink,
    );
    let mut writer = ArtifactWriter::new(&store);
    writer.put("annotations.jsonl", b"{}\n").unwrap();
    writer.put("empty", b"").unwrap();
    let labels = writer.finish("annotations", 1, serde_json::Value::Null).unwrap();
    let key = Digest::of(b"key");
    store.write_file(&store.root().join(key_name(key)), b"{\"a\": 1}").unwrap();
    let spec = BundleSpec {
        program: "0.1.0".into(),
        config: "version: 1\n".into(),
        until: Some("label".into()),
        commands: vec!["pipeline import work.tar".into(), "pipeline run --from review".into()],
        inputs: [("images".into(), images.unwrap().artifact)].into(),
        stages: [("label".into(), BundleStage { key, outputs: [("labels".into(), labels)].into() })].into(),
        ..BundleSpec::default()
    };
    Here { dir, store, spec }
}

impl Here {
    fn write(&self) -> Vec<u8> {
        let out = self.dir.path().join("out/work.tar");
        let program = self.dir.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let extras = Extras { readme: "words\n".into(), notebook: Some(b"{}".to_vec()), program: Some(program) };
        write_bundle(&out, &self.spec, extras, &self.store, &CancelToken::new(), &NoSink).unwrap();
        assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);
        fs::read(out).unwrap()
    }
}

fn lock(store: &Store) -> ProjectLock {
    ProjectLock::acquire(store, "test", |_| false).unwrap().unwrap()
}

/// Every file below a folder but the lock, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if !path.ends_with("lock") {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

/// Reads bundle bytes into a new store. A refusal must leave it as it was.
fn read(bytes: &[u8]) -> (tempfile::TempDir, Store, Result<BundleSpec, BundleError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("work.tar");
    fs::write(&path, bytes).unwrap();
    let store = Store::open(dir.path().join("there")).unwrap();
    let result = read_bundle(&path, &store, &lock(&store), &CancelToken::new(), &NoSink);
    if result.is_err() {
        assert_eq!(files(store.root()).len(), 0);
    }
    assert_eq!(fs::read_dir(store.root().join("tmp")).map_or(0, Iterator::count), 0);
    (dir, store, result)
}

#[test]
fn what_is_written_arrives() {
    let here = project();
    let bytes = here.write();
    assert_eq!(here.write(), bytes, "equal content gives equal bytes");
    let (dir, there, spec) = read(&bytes);
    assert_eq!(spec.unwrap(), here.spec);
    for artifact in artifacts(&here.spec) {
        assert!(there.verify(artifact).is_empty());
    }
    let key = here.spec.stages["label"].key;
    assert_eq!(fs::read(there.root().join(key_name(key))).unwrap(), b"{\"a\": 1}");
    // A second time changes nothing, and a result that is there stays.
    fs::write(there.root().join(key_name(key)), "mine").unwrap();
    let before = files(there.root());
    read_bundle(&dir.path().join("work.tar"), &there, &lock(&there), &CancelToken::new(), &NoSink).unwrap();
    assert_eq!(files(there.root()), before);
}

#[test]
fn any_tar_program_can_look_inside() {
    let here = project();
    let mut tar = tar::Archive::new(io::Cursor::new(here.write()));
    let out = here.dir.path().join("unpacked");
    tar.unpack(&out).unwrap();
    let readme = fs::read_to_string(out.join(README)).unwrap();
    assert_eq!(readme, "words\n");
    assert_eq!(fs::read(out.join(NOTEBOOK)).unwrap(), b"{}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(out.join(PROGRAM)).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(out.join(README)).unwrap().permissions().mode() & 0o777, 0o644);
    }
    let index: serde_json::Value = serde_json::from_slice(&fs::read(out.join(INDEX)).unwrap()).unwrap();
    assert_eq!(index["config"], "version: 1\n");
}

#[test]
fn every_cut_is_an_error() {
    let bytes = project().write();
    // The last 1024 bytes are the empty blocks that end a tar; everything before them is needed.
    for cut in (0..bytes.len() - 1024).step_by(2003).chain([bytes.len() - 1025 - 511]) {
        let (_dir, _store, result) = read(&bytes[..cut]);
        assert!(result.is_err(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_flipped_bit_changes_what_arrives(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        static BUNDLE: std::sync::OnceLock<(BundleSpec, Vec<u8>)> = std::sync::OnceLock::new();
        let (sent, bytes) = BUNDLE.get_or_init(|| {
            let here = project();
            (here.spec.clone(), here.write())
        });
        let mut bytes = bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (_dir, store, result) = read(&bytes);
        // Bits of the padding carry nothing; all others are noticed.
        if let Ok(spec) = result {
            prop_assert_eq!(&spec, sent);
            for artifact in artifacts(&spec) {
                prop_assert!(store.verify(artifact).is_empty());
            }
        }
    }
}

#[test]
fn the_damaged_entry_is_named() {
    let here = project();
    let mut bytes = here.write();
    let at = bytes.windows(64).position(|w| w == [2; 64]).unwrap();
    bytes[at + 100] = 3;
    let (_dir, _store, result) = read(&bytes);
    let e = result.unwrap_err().to_string();
    assert!(e.contains(&cas_name(Digest::of(&vec![2; 70_000]))) && e.contains("Nothing was imported"), "{e}");
}

type Entries = Vec<(String, Vec<u8>)>;

/// A bundle with any files, whose list and hashes are right.
fn forged(edit: impl FnOnce(&mut Index, &mut Entries)) -> Vec<u8> {
    let manifest = Manifest::new("files", 1, serde_json::Value::Null, vec![]).to_bytes();
    let artifact = Digest::of(&manifest);
    let spec = BundleSpec { inputs: [("i".into(), artifact)].into(), ..BundleSpec::default() };
    let mut entries = vec![(cas_name(artifact), manifest)];
    let mut index = Index { version: VERSION, spec, files: vec![] };
    edit(&mut index, &mut entries);
    if index.files.is_empty() {
        let listed = |(path, bytes): &(String, Vec<u8>)| Listed {
            path: path.clone(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        index.files = entries.iter().map(listed).collect();
    }
    let index = pretty(&index);
    let check = format!("{}\n", Digest::of(&index)).into_bytes();
    let mut tar = tar::Builder::new(vec![]);
    for (path, bytes) in [(INDEX.to_owned(), index), (INDEX_CHECK.to_owned(), check)].into_iter().chain(entries) {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn forgeries_are_refused() {
    assert!(read(&forged(|_, _| {})).2.is_ok());
    for name in ["../../evil", "/tmp/evil", "cas/../evil", "keys/x.json", "lock"] {
        let (_dir, _store, result) = read(&forged(|_, entries| entries.push((name.into(), vec![1]))));
        let e = result.unwrap_err().to_string();
        assert!(e.contains(&format!("at `{name}`")), "{e}");
    }
    let e = |edit: &dyn Fn(&mut Index, &mut Entries)| read(&forged(|i, e| edit(i, e))).2.unwrap_err().to_string();
    assert!(e(&|i, _| i.version = 3).contains("has version 3"));
    assert!(read(&forged(|i, _| i.version = 1)).2.is_ok());
    let twice = e(&|_, entries| entries.push(entries[0].clone()));
    assert!(twice.contains("no bundle has a file of this name"), "{twice}");
    let unlisted = e(&|i, entries| {
        let (path, bytes) = entries[0].clone();
        i.files.push(Listed { path, digest: Digest::of(&bytes), size: bytes.len() as u64 });
        entries.push(("cas/evil".into(), vec![]));
    });
    assert!(unlisted.contains("`cas/evil`: it is not in the bundle's list"), "{unlisted}");
    let lost = e(&|i, entries| {
        let blob = crate::Blob { name: "x".into(), digest: Digest::of(b"x"), size: 1 };
        let manifest = Manifest::new("files", 1, serde_json::Value::Null, vec![blob]).to_bytes();
        let artifact = Digest::of(&manifest);
        i.spec.inputs.insert("i".into(), artifact);
        *entries = vec![(cas_name(artifact), manifest)];
    });
    assert!(lost.contains("blob `x` of this artifact is not in the bundle"), "{lost}");
    let key = BundleStage { key: Digest::of(b"key"), outputs: BTreeMap::new() };
    let named = e(&|i, _| drop(i.spec.stages.insert("../../evil".into(), key.clone())));
    assert!(named.contains("no stage can have this name"), "{named}");
    let outside = e(&|i, entries| {
        let blob = crate::Blob { name: "../../evil".into(), digest: Digest::of(b"x"), size: 1 };
        let manifest = Manifest::new("files", 1, serde_json::Value::Null, vec![blob]).to_bytes();
        i.spec.inputs.insert("i".into(), Digest::of(&manifest));
        *entries = vec![(cas_name(Digest::of(&manifest)), manifest), (cas_name(Digest::of(b"x")), b"x".to_vec())];
    });
    assert!(outside.contains("`../../evil` leads out of its folder"), "{outside}");
    assert!(matches!(read(b"PNG").2, Err(BundleError::NotABundle { .. })));
    assert!(matches!(read(b"").2, Err(BundleError::NotABundle { .. })));
}

#[test]
fn what_is_missing_or_changed_here_is_named() {
    let mut here = project();
    let out = here.dir.path().join("b.tar");
    let write = |here: &Here| {
        let e =
            write_bundle(&out, &here.spec, Extras::default(), &here.store, &CancelToken::new(), &NoSink).unwrap_err();
        assert!(!out.exists());
        e
    };
    fs::write(here.dir.path().join("in/b.png"), "other").unwrap();
    assert!(matches!(write(&here), BundleError::Store(StoreError::SourceChanged { path }) if path.ends_with("b.png")));
    fs::remove_file(here.dir.path().join("in/b.png")).unwrap();
    assert!(write(&here).to_string().contains("b.png"));
    here.spec.stages.get_mut("label").unwrap().key = Digest::of(b"none");
    assert!(matches!(write(&here), BundleError::NoResult { stage, .. } if stage == "label"));
}

#[test]
fn both_ways_can_be_stopped() {
    let here = project();
    let cancel = CancelToken::new();
    cancel.cancel();
    let out = here.dir.path().join("b.tar");
    let e = write_bundle(&out, &here.spec, Extras::default(), &here.store, &cancel, &NoSink).unwrap_err();
    assert!(matches!(e, BundleError::Cancelled) && !out.exists());
    fs::write(&out, here.write()).unwrap();
    let there = Store::open(here.dir.path().join("there")).unwrap();
    let e = read_bundle(&out, &there, &lock(&there), &cancel, &NoSink).unwrap_err();
    assert!(matches!(e, BundleError::Cancelled));
    assert!(files(there.root()).is_empty());
}
