use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::event::NoSink;

struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        Self { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    fn write(&self, name: &str, bytes: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Makes the cache believe that its records are old enough.
    fn age(&self) {
        for file in fs::read_dir(self.store.root().join("stat")).unwrap() {
            let path = file.unwrap().path();
            let cache = StatCache::load(&path).unwrap();
            let records = cache.records().map(|r| Record { racy: false, ..r });
            StatCache::save(&self.store, &path, cache.artifact(), records).unwrap();
        }
    }

    fn spec(&self, path: &str) -> InputSpec {
        InputSpec {
            name: "images".into(),
            kind: "images".into(),
            path: self.path(path),
            extensions: Some(vec!["png".into(), ".JPG".into()]),
            recursive: true,
        }
    }

    fn scan(&self, spec: &InputSpec) -> Result<Scan, SourceError> {
        scan(&self.store, spec, &CancelToken::new(), &NoSink)
    }

    fn names(&self, spec: &InputSpec) -> Vec<String> {
        let scan = self.scan(spec).unwrap();
        scan.manifest(&self.store).unwrap().blobs.into_iter().map(|b| b.name).collect()
    }

    fn error(&self, path: &str) -> String {
        self.scan(&self.spec(path)).unwrap_err().to_string()
    }
}

#[test]
fn a_folder_gives_names_below_it_and_says_what_it_left_out() {
    let p = Place::new();
    for name in ["b/ä b.png", "b.png", "B.JPG", "b/b.png", "b-x/1.png", ".git/x.png", ".h.png"] {
        p.write(name, name);
    }
    p.write("notes.txt", "");
    p.write("b/none", "");
    let spec = p.spec("");
    let scan = p.scan(&spec).unwrap();
    let manifest = scan.manifest(&p.store).unwrap();
    let names: Vec<_> = manifest.blobs.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["B.JPG", "b-x/1.png", "b.png", "b/b.png", "b/ä b.png"]);
    let left: Vec<_> = scan.left_out.iter().map(|(n, r)| format!("{n}: {r}")).collect();
    assert_eq!(left, ["b/none: it has no extension", "notes.txt: files ending in .txt are not read here"]);
    assert_eq!((scan.files, scan.hashed), (5, 5));
    for blob in &manifest.blobs {
        assert!(!p.store.cas_path(blob.digest).exists());
        assert_eq!(p.store.read_blob(blob).unwrap(), blob.name.as_bytes());
    }
    assert!(p.store.complete(scan.artifact).is_ok() && p.store.verify(scan.artifact).is_empty());
    let flat = InputSpec { recursive: false, ..spec };
    assert_eq!(p.names(&flat), ["B.JPG", "b.png"]);
    let all = InputSpec { extensions: None, ..flat };
    assert_eq!(p.names(&all), ["B.JPG", "b.png", "notes.txt"]);
}

#[test]
fn nothing_found_is_an_error_that_says_where_and_what() {
    let p = Place::new();
    p.write("b/x.tiff", "");
    p.write("b/y.tiff", "");
    let e = p.error("b");
    assert!(e.contains("/in/b`") && e.contains("no file ending in .png, .JPG") && e.contains("2 files"), "{e}");
    assert!(e.contains("`x.tiff`: files ending in .tiff"), "{e}");
    fs::create_dir(p.path("none")).unwrap();
    assert!(p.error("none").ends_with("/in/none`"));
    assert!(matches!(p.scan(&p.spec("absent")).unwrap_err(), SourceError::NotFound { .. }));
    assert!(matches!(p.scan(&p.spec("b/x.tiff")).unwrap_err(), SourceError::Empty { .. }));
}

#[test]
fn files_and_globs() {
    let p = Place::new();
    for name in ["a/1.png", "a/2.jpg", "a/b/3.png", "c/4.png", "a/5.txt", "a[1]/6.png"] {
        p.write(name, name);
    }
    assert_eq!(p.names(&p.spec("a/b/3.png")), ["3.png"]);
    assert_eq!(p.names(&p.spec("a/*")), ["1.png", "2.jpg"]);
    assert_eq!(p.scan(&p.spec("a/*")).unwrap().left_out.len(), 1);
    assert_eq!(p.names(&p.spec("**/*.png")), ["a/1.png", "a/b/3.png", "a[1]/6.png", "c/4.png"]);
    assert_eq!(p.names(&p.spec("{a,c}/*.{png,jpg}")), ["a/1.png", "a/2.jpg", "c/4.png"]);
    assert_eq!(p.names(&p.spec("a[1]")), ["6.png"]);
    assert!(matches!(p.scan(&p.spec("a/[")).unwrap_err(), SourceError::Pattern { .. }));
    assert!(matches!(p.scan(&p.spec("z/*.png")).unwrap_err(), SourceError::NotFound { .. }));
    assert!(matches!(p.scan(&p.spec("a/*.bmp")).unwrap_err(), SourceError::Empty { .. }));
}

#[test]
fn lists() {
    let p = Place::new();
    p.write("lists/x/a b.png", "1");
    p.write("other/c.png", "2");
    p.write("lists/l.txt", "\u{feff}x/a b.png\r\n\n# words\n../other/c.png\n./x/../x/a b.png\nl.txt\n");
    let spec = p.spec("lists/l.txt");
    let scan = p.scan(&spec).unwrap();
    let manifest = scan.manifest(&p.store).unwrap();
    assert_eq!(manifest.blobs.len(), 2);
    assert!(manifest.blobs.iter().any(|b| b.name == "x/a b.png"));
    assert!(manifest.blobs.iter().any(|b| b.name.ends_with("in/other/c.png") && !b.name.starts_with('/')));
    assert_eq!(scan.left_out.len(), 2);
    p.age();
    let again = Store::open(p.store.root()).unwrap();
    let second = super::scan(&again, &spec, &CancelToken::new(), &NoSink).unwrap();
    assert_eq!(second, Scan { hashed: 0, ..scan });
    assert!(manifest.blobs.iter().all(|b| again.read_blob(b).is_ok()));
    for (text, part) in [
        ("x/a b.png\ngone.png\n", "line 2: there is no file `gone.png`"),
        ("\n\n../other\n", "line 3: `../other` is not a file"),
    ] {
        p.write("lists/l.txt", text);
        let e = p.error("lists/l.txt");
        assert!(e.contains("l.txt`, ") && e.contains(part), "{e}");
    }
    fs::write(p.path("lists/l.txt"), b"\n\xff\n").unwrap();
    assert!(p.error("lists/l.txt").contains("line 2: the line is not UTF-8"));
}

#[cfg(unix)]
#[test]
fn links_loops_and_odd_names_are_survived() {
    use std::os::unix::{ffi::OsStrExt, fs::symlink};
    let p = Place::new();
    p.write("a/1.png", "1");
    p.write("b/2.png", "2");
    symlink("..", p.path("a/up")).unwrap();
    symlink("../b", p.path("a/to_b")).unwrap();
    symlink("../a", p.path("b/to_a")).unwrap();
    symlink("1.png", p.path("a/link.png")).unwrap();
    symlink("gone.png", p.path("a/dead.png")).unwrap();
    fs::write(p.path("a").join(std::ffi::OsStr::from_bytes(b"bad\xff.png")), "x").unwrap();
    let scan = p.scan(&p.spec("")).unwrap();
    let names: Vec<_> = scan.manifest(&p.store).unwrap().blobs.into_iter().map(|b| b.name).collect();
    let expected = ["a/1.png", "a/link.png", "a/to_b/2.png", "b/2.png", "b/to_a/1.png", "b/to_a/link.png"];
    assert_eq!(names, expected);
    let reason = |part: &str| scan.left_out.iter().filter(|(_, r)| r.contains(part)).count();
    assert_eq!(reason("a link back"), 4);
    assert_eq!((reason("not there"), reason("not UTF-8")), (2, 2));
}

#[test]
fn only_changed_files_are_read_again() {
    let p = Place::new();
    for i in 0..20 {
        p.write(&format!("{i}.png"), &format!("picture {i}"));
    }
    let spec = p.spec("");
    let first = p.scan(&spec).unwrap();
    // The files are so new that they may still change unseen.
    assert_eq!(p.scan(&spec).unwrap(), first);
    p.age();
    assert_eq!(p.scan(&spec).unwrap(), Scan { hashed: 0, ..first.clone() });

    p.write("7.png", "picture X");
    p.write("new.png", "n");
    fs::remove_file(p.path("3.png")).unwrap();
    let changed = p.scan(&spec).unwrap();
    assert_eq!((changed.files, changed.hashed), (20, 2));
    assert_ne!(changed.artifact, first.artifact);
    p.age();
    // Gone from the end of the order: no file is read, and it is another artifact all the same.
    fs::remove_file(p.path("new.png")).unwrap();
    let fewer = p.scan(&spec).unwrap();
    assert_eq!((fewer.files, fewer.hashed), (19, 0));
    assert_ne!(fewer.artifact, changed.artifact);

    // A cache or manifest that is gone or damaged costs time only.
    p.age();
    crate::store::remove_file(&p.store.cas_path(fewer.artifact)).unwrap();
    assert_eq!(p.scan(&spec).unwrap(), fewer);
    let cache = cache_path(&p.store, &spec, &spec.path);
    let mut bytes = fs::read(&cache).unwrap();
    bytes[100] ^= 1;
    fs::write(&cache, bytes).unwrap();
    assert_eq!(p.scan(&spec).unwrap(), Scan { hashed: 19, ..fewer.clone() });
    fs::remove_dir_all(p.store.root().join("stat")).unwrap();
    assert_eq!(p.scan(&spec).unwrap(), Scan { hashed: 19, ..fewer });
}

#[test]
fn a_file_rewritten_right_after_the_scan_is_noticed() {
    let p = Place::new();
    let spec = p.spec("");
    p.write("a.png", "0");
    let mut last = p.scan(&spec).unwrap().artifact;
    for i in 1..20 {
        // Same size, and maybe the same time.
        p.write("a.png", &(i % 10).to_string());
        let now = p.scan(&spec).unwrap().artifact;
        assert_ne!(now, last, "rewrite {i}");
        last = now;
    }
}

#[test]
fn a_source_that_changes_after_the_scan_is_an_error() {
    let p = Place::new();
    p.write("a.png", "0");
    let scan = p.scan(&p.spec("")).unwrap();
    let manifest = scan.manifest(&p.store).unwrap();
    p.write("a.png", "1");
    assert!(matches!(p.store.read_blob(&manifest.blobs[0]).unwrap_err(), StoreError::SourceChanged { .. }));
}

#[test]
fn a_cancelled_scan_keeps_what_it_read() {
    struct Stop(CancelToken, Mutex<u64>);
    impl EventSink for Stop {
        fn emit(&self, event: &Event) {
            if let Event::Progress { done, total, .. } = event {
                *self.1.lock().unwrap() = *total;
                if *done >= 40 {
                    self.0.cancel();
                }
            }
        }
    }
    let p = Place::new();
    for i in 0..100 {
        p.write(&format!("{i:03}.png"), &format!("picture {i}"));
    }
    let sink = Stop(CancelToken::new(), Mutex::default());
    let e = super::scan(&p.store, &p.spec(""), &sink.0, &sink).unwrap_err();
    assert!(matches!(e, SourceError::Cancelled));
    assert_eq!(*sink.1.lock().unwrap(), 100);
    p.age();
    let scan = p.scan(&p.spec("")).unwrap();
    assert_eq!(scan.files, 100);
    assert!((1..=60).contains(&scan.hashed), "{}", scan.hashed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_walk_is_sorted_and_complete(names in prop::collection::btree_set("[a-c /.-]{1,6}[ab]", 1..20)) {
        let p = Place::new();
        let mut expected = vec![];
        for name in &names {
            let parts: Vec<_> = name.split('/').collect();
            let full = format!("{name}.png");
            // A name may be a folder of another; then it cannot be written, and need not be.
            if parts.iter().any(|p| p.is_empty() || p.starts_with('.'))
                || fs::create_dir_all(p.path(&full).parent().unwrap()).is_err()
                || fs::write(p.path(&full), name).is_err() {
                continue;
            }
            expected.push(full);
        }
        expected.sort();
        prop_assume!(!expected.is_empty());
        prop_assert_eq!(p.names(&p.spec("")), expected);
    }
}
