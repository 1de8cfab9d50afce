use super::*;
use std::os::unix::fs::PermissionsExt;

/// Returns a cache with images of one MiB, each last used so many hours ago.
fn cache(config: ImageConfig, hours: &[u64]) -> (tempfile::TempDir, ImageStore) {
    let home = tempfile::tempdir().expect("tempdir");
    let store = ImageStore::new(&ImageConfig { cache: Some(home.path().join("images")), ..config });
    store.prepare().expect("prepared");
    for (n, hours) in hours.iter().enumerate() {
        let path = store.entry(OBJECTS, &Digest::of_bytes(&[u8::try_from(n).expect("few"); 32]).file_name());
        fs::write(&path, vec![1; 1 << 20]).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        let file = fs::File::options().write(true).open(&path).expect("open");
        file.set_modified(clock::system() - Duration::from_hours(*hours)).expect("set");
    }
    (home, store)
}

#[test]
fn beyond_its_limits_the_oldest_go_but_never_what_was_just_used() {
    let (size, age) = (Some(5 << 19), Some(Duration::from_hours(100)));
    for (max_size, max_age, hours, left) in [
        (None, None, &[0, 500, 9000][..], 3),
        (size, None, &[2, 3, 4, 5], 2),
        (size, None, &[0, 0, 0, 0], 4),
        (None, age, &[0, 99, 101, 500], 2),
        (size, age, &[0, 0, 0, 99, 101], 3),
        (Some(0), None, &[0, 2, 3], 1),
    ] {
        let (_home, store) = cache(ImageConfig { max_size, max_age, ..ImageConfig::default() }, hours);
        let mut removed = Vec::new();
        store.trim(&mut |name| removed.push(name.to_owned()));
        let used: Vec<u64> = store
            .list()
            .iter()
            .map(|image| clock::system().duration_since(image.used).expect("past").as_secs() / 3600)
            .collect();
        assert_eq!((used.len(), removed.len()), (left, hours.len() - left), "{max_size:?} {max_age:?} {hours:?}");
        assert_eq!(used, hours[..left], "the newest stay");
    }
}
