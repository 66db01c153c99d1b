//! Files of maps in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use avp_handshake::{MapLookup, ModelIdentity, ResolutionPath, ResolveOptions, resolve};
use tempfile::tempdir;

use super::*;
use crate::{MapFolder, ModelKey};

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn between(source: &str, target: &str) -> ProjectionMap {
    ProjectionMap::between(&model(source, SOURCE_DIM, 256), &model(target, TARGET_DIM, 256)).unwrap()
}

// spec: projection 9.5
#[test]
fn a_map_is_saved_whole_under_a_name_of_its_own_and_found_again() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path().join("a/maps"));
    assert!(folder.list().unwrap().is_empty() && folder.find("source", "target").is_none());
    let [_, map, _] = maps();
    let path = folder.save(&map).unwrap();
    assert_eq!(path, folder.dir().join(format!("{}.avp-map", map.id())));
    let (from, to) = map.id().split_once('_').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!([from, to].iter().all(|half| half.len() == 16 && half.bytes().all(|b| b.is_ascii_hexdigit())));
    // Nothing else is left there.
    assert_eq!(names(folder.dir()), [format!("{}.avp-map", map.id())]);
    assert_eq!(ProjectionMap::read(&path).unwrap(), map);
    assert_eq!(folder.load(&map.id()).unwrap(), map);
    assert_eq!(folder.load(&format!("{}.avp-map", map.id())).unwrap(), map);
    assert_eq!(folder.find("source", "target"), Some(map.clone()));
    assert_eq!(folder.find(source().info(), target().info()), Some(map));
    assert_eq!(folder.find("target", "source"), None);
}

#[test]
fn a_map_is_replaced_only_where_that_is_asked_for() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path());
    let mut map = between("a", "b");
    let path = folder.save(&map).unwrap();
    let first = fs::read(&path).unwrap();
    map.target_norm = Some(2.0);
    assert!(matches!(folder.save(&map), Err(MapError::Exists(at)) if at == path));
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(folder.replace(&map).unwrap(), path);
    assert_eq!(folder.find("a", "b"), Some(map));
    assert_eq!(names(dir.path()).len(), 1);
}

#[test]
fn what_would_not_be_read_again_is_not_written() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path().join("maps"));
    let mut map = between("a", "b");
    map.target_norm = Some(f32::NAN);
    assert!(matches!(folder.save(&map), Err(MapError::Map(MapFault::Field { .. }))));
    map.target_norm = None;
    map.source.model_id = "x".repeat(5000);
    assert!(matches!(folder.replace(&map), Err(MapError::Map(MapFault::Field { .. }))));
    assert!(!folder.dir().exists());
}

#[test]
fn a_write_that_fails_leaves_nothing_behind() {
    let dir = tempdir().unwrap();
    let (map, folder) = (between("a", "b"), MapFolder::new(dir.path()));
    // Nothing is renamed over a folder.
    fs::create_dir(dir.path().join(format!("{}.avp-map", map.id()))).unwrap();
    assert!(matches!(folder.replace(&map), Err(MapError::Io { .. })));
    assert!(folder.save(&map).is_err());
    assert_eq!(names(dir.path()).len(), 1);
    // A file in the folder's place stays.
    let file = dir.path().join("file");
    fs::write(&file, b"mine").unwrap();
    let folder = MapFolder::new(&file);
    for error in [folder.save(&map).unwrap_err(), folder.list().unwrap_err()] {
        assert!(error.to_string().contains("no folder"), "{error}");
    }
    assert!(!folder.has_map("a", "b"));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

// spec: projection 9.5
#[test]
fn hashes_never_become_paths_and_files_are_told_by_what_they_say() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path().join("maps"));
    let hostile = ["../../up", "/etc/passwd", "a/b", "..", "\u{0}", "x\\y", &"h".repeat(2048)];
    for source in hostile {
        let map = between(source, "target");
        let path = folder.save(&map).unwrap();
        assert_eq!(path.parent(), Some(folder.dir()));
        assert_eq!(folder.find(source, "target"), Some(map));
        assert!(folder.has_map(source, "target") && !folder.has_map("target", source));
    }
    assert_eq!((names(folder.dir()).len(), names(dir.path()).len()), (hostile.len(), 1));
    // A file under the name of other models is for the models that it says.
    let (one, other) = (between("one", "b"), between("other", "b"));
    let path = folder.save(&one).unwrap();
    fs::write(&path, other.encode()).unwrap();
    assert!(folder.find("one", "b").is_none() && !folder.has_map("one", "b"));
    assert_eq!(folder.find("other", "b"), Some(other));
    // The first digits of a hash are not the hash.
    folder.save(&between(&"1".repeat(64), "b")).unwrap();
    assert!(!folder.has_map(&"1".repeat(63), "b") && !folder.has_map(&"1".repeat(16), "b"));
    assert!(!folder.has_map("", "b") && !folder.has_map("", ""));
}

#[test]
fn of_several_checkpoints_the_one_that_is_meant_is_found() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path());
    let map = |weights: Option<&str>| {
        ProjectionMap::between(&source().with_weights(weights), &target().with_weights(Some("t"))).unwrap()
    };
    let saved = [Some("aa"), Some("bb"), None].map(|weights| {
        folder.save(&map(weights)).unwrap();
        map(weights)
    });
    let found = |weights| {
        folder
            .find(ModelKey { model_hash: "source", weights }, ModelKey { model_hash: "target", weights: "t" })
    };
    assert_eq!(found("aa").as_ref(), Some(&saved[0]));
    assert_eq!(found("bb").as_ref(), Some(&saved[1]));
    assert_eq!(found("cc").as_ref(), Some(&saved[2]));
    assert!(saved.contains(&found("").unwrap()));
    let elsewhere = ModelKey { model_hash: "target", weights: "u" };
    assert_eq!(folder.find("source", elsewhere), None);
}

#[test]
fn a_broken_file_is_listed_as_broken_beside_the_others() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path());
    let map = between("a", "b");
    let path = folder.save(&map).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(dir.path().join("cut.avp-map"), &bytes[..bytes.len() - 1]).unwrap();
    fs::write(dir.path().join("empty.avp-map"), b"").unwrap();
    fs::write(dir.path().join("notes.txt"), b"not a map").unwrap();
    fs::create_dir(dir.path().join("folder.avp-map")).unwrap();
    let listed = folder.list().unwrap();
    let broken: Vec<&PathBuf> = listed.iter().filter(|(_, map)| map.is_err()).map(|(path, _)| path).collect();
    assert_eq!(broken, [&dir.path().join("cut.avp-map"), &dir.path().join("empty.avp-map")]);
    assert!(listed.iter().any(|(at, found)| *at == path && found.as_ref().is_ok_and(|found| *found == map)));
    assert_eq!(listed.len(), 3);
    assert!(folder.has_map("a", "b"));
    assert!(matches!(folder.load("cut"), Err(MapError::File { .. })));
    folder.remove("cut").unwrap();
    folder.remove("empty.avp-map").unwrap();
    assert_eq!(folder.list().unwrap().len(), 1);
}

// spec: projection 9.5
#[test]
fn only_maps_within_the_folder_are_removed() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path().join("maps"));
    let map = between("a", "b");
    folder.save(&map).unwrap();
    let outside = dir.path().join("outside.avp-map");
    fs::write(&outside, map.encode()).unwrap();
    let absolute = outside.display().to_string();
    for id in
        ["../outside", "../outside.avp-map", &absolute, "..", ".", "", "a/../x", "x\\y", "C:x", ".avp-map"]
    {
        assert!(matches!(folder.remove(id), Err(MapError::Id(_))), "{id}");
    }
    assert!(matches!(folder.remove("outside"), Err(MapError::NotFound { .. })));
    assert!(outside.exists() && folder.has_map("a", "b"));
    folder.remove(&map.id()).unwrap();
    assert!(names(folder.dir()).is_empty() && !folder.has_map("a", "b"));
}

#[test]
fn the_folder_answers_rule_4_as_it_is_now() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path());
    let model = |hash: &str| ModelIdentity { model_hash: hash.into(), ..Default::default() };
    let path = || {
        let options = ResolveOptions { maps: Some(&folder), ..Default::default() };
        resolve(&model("a"), &model("b"), &options).path
    };
    assert_eq!(path(), ResolutionPath::JsonFallback);
    let file = folder.save(&between("a", "b")).unwrap();
    assert_eq!(path(), ResolutionPath::AvpMapFile);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[1..]).unwrap();
    assert_eq!(path(), ResolutionPath::JsonFallback);
    fs::write(&file, &bytes).unwrap();
    assert_eq!(path(), ResolutionPath::AvpMapFile);
    // Another program removes it.
    fs::remove_file(&file).unwrap();
    assert_eq!(path(), ResolutionPath::JsonFallback);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_map_and_nobody_waits_for_it() {
    let dir = tempdir().unwrap();
    let folder = MapFolder::new(dir.path());
    let pipe = dir.path().join("pipe.avp-map");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    assert!(folder.list().unwrap().is_empty() && !folder.has_map("a", "b"));
    assert!(matches!(ProjectionMap::read(&pipe), Err(MapError::Io { .. })));
}
