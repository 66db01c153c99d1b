//! `avp map`: projection maps between models, in files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use avp::{Backend, LinearMap, MapEnd, MapError, MapFolder, MapProjection, ProjectionMap, validate_pair};
use serde_json::{Value, json};

use super::model;
use crate::args::{
    MapArgs, MapCommand, MapFolderArgs, MapInspectArgs, MapListArgs, MapMakeArgs, MapRemoveArgs,
};
use crate::output::{self, printable};

pub(crate) fn run(args: MapArgs, json: bool) -> Result<()> {
    match args.command {
        MapCommand::Make(args) => make(&args, json),
        MapCommand::List(args) => list(args, json),
        MapCommand::Inspect(args) => inspect(args, json),
        MapCommand::Remove(args) => remove(args, json),
    }
}

fn make(args: &MapMakeArgs, json: bool) -> Result<()> {
    let folder = folder(&args.folder)?;
    // Found before two models are loaded.
    folder.files()?;
    let source = model::load(&args.source, &args.engine)?;
    let target = match args.target == args.source {
        true => Arc::clone(&source),
        false => model::load(&args.target, &args.engine)?,
    };
    let mut map = match &args.linear {
        Some(file) => linear(file, source.as_ref(), target.as_ref())?,
        None => ProjectionMap::between(source.as_ref(), target.as_ref())?,
    };
    // A linear map says nothing of tokens; what it is worth its maker knows.
    if let MapProjection::Vocabulary(shared) = &map.projection {
        map.validation = Some(validate_pair(source.as_ref(), target.as_ref(), shared)?);
    }
    let saved = if args.force { folder.replace(&map) } else { folder.save(&map) };
    let path = saved.map_err(|error| match error {
        MapError::Exists(path) => anyhow!("{} exists; `--force` replaces it", path.display()),
        other => other.into(),
    })?;
    if json {
        return Ok(output::object(&record(&path, &map))?);
    }
    Ok(output::line(&format!("wrote {}: {}", path.display(), in_words(&map)))?)
}

fn linear(file: &Path, source: &dyn Backend, target: &dyn Backend) -> Result<ProjectionMap> {
    let name = || format!("--linear {}", file.display());
    // Reading a pipe or a device may have no end.
    ensure!(file.is_file(), "{}: there is no such file; check the path", name());
    let bytes = fs::read(file).with_context(name)?;
    let (source, target) = (source.info(), target.info());
    let widths = (source.identity.hidden_dim, target.identity.hidden_dim);
    let map = LinearMap::from_safetensors(&bytes, widths.0, widths.1).with_context(name)?;
    ProjectionMap::linear(source, target, map).with_context(name)
}

fn list(args: MapListArgs, json: bool) -> Result<()> {
    let folder = folder(&args.folder)?;
    let found = folder.list()?;
    if json {
        let records: Vec<Value> = found
            .iter()
            .map(|(path, map)| match map {
                Ok(map) => record(path, map),
                Err(error) => json!({ "file": path.display().to_string(), "error": error.to_string() }),
            })
            .collect();
        let dir = folder.dir().display().to_string();
        return Ok(output::object(&json!({ "folder": dir, "maps": records }))?);
    }
    if found.is_empty() {
        let dir = folder.dir().display();
        return Ok(output::line(&format!("no maps in {dir}; `avp map make` makes one"))?);
    }
    for (path, map) in &found {
        let what = match map {
            Ok(map) => in_words(map),
            Err(MapError::File { fault, .. }) => format!("not usable: {fault}"),
            Err(error) => format!("not usable: {error}"),
        };
        output::line(&format!("{:<33}  {}", printable(&id(path)), output::short_line(&what)))?;
    }
    Ok(())
}

fn inspect(args: MapInspectArgs, json: bool) -> Result<()> {
    let (path, map) = found(&args)?;
    if json {
        return Ok(output::object(&record(&path, &map))?);
    }
    let mut rows = vec![
        ("file".to_owned(), path.display().to_string()),
        ("method".to_owned(), map.projection.method().to_owned()),
    ];
    rows.extend(map.projection.shared_tokens().map(|n| ("shared_tokens".to_owned(), n.to_string())));
    rows.extend(map.target_norm.map(|norm| ("target_norm".to_owned(), norm.to_string())));
    for (name, end) in [("source", &map.source), ("target", &map.target)] {
        rows.extend(end_rows(end).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
    }
    if let Some(validation) = map.validation {
        rows.push(("cosine".to_owned(), validation.cosine.to_string()));
        rows.extend(validation.perplexity.map(|value| ("perplexity".to_owned(), value.to_string())));
    }
    for (name, value) in rows {
        output::line(&format!("{name:<22} {}", printable(&value)))?;
    }
    Ok(())
}

/// A file, where there is one of that name, or what has that id in the folder.
fn found(args: &MapInspectArgs) -> Result<(PathBuf, ProjectionMap)> {
    let file = Path::new(&args.map);
    let is_path = args.map.contains(['/', '\\']) || file.exists();
    let path = if is_path { file.to_owned() } else { folder(&args.folder)?.path(&args.map)? };
    let map = ProjectionMap::read(&path)?;
    Ok((path, map))
}

fn remove(args: MapRemoveArgs, json: bool) -> Result<()> {
    let path = folder(&args.folder)?.remove(&args.id)?;
    let file = path.display().to_string();
    if json {
        return Ok(output::object(&json!({ "removed": file }))?);
    }
    Ok(output::line(&format!("removed {}", printable(&file)))?)
}

fn folder(args: &MapFolderArgs) -> Result<MapFolder> {
    let dir = args.dir.clone().or_else(model::map_dir);
    let dir = dir.context("there is no cache folder; give the folder of the maps with `--dir`")?;
    Ok(MapFolder::new(dir))
}

/// The name of a map by its file.
fn id(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn in_words(map: &ProjectionMap) -> String {
    let how = match &map.projection {
        MapProjection::Vocabulary(shared) => format!("{} shared tokens", shared.len()),
        MapProjection::Linear(_) => "a matrix".to_owned(),
    };
    let (source, target) = (&map.source, &map.target);
    format!(
        "{} -> {}, {}, {how}, width {} to {}",
        printable(&source.model_id),
        printable(&target.model_id),
        map.projection.method(),
        source.hidden_dim,
        target.hidden_dim
    )
}

fn end_rows(end: &MapEnd) -> Vec<(&'static str, String)> {
    let mut rows = vec![("model_id", end.model_id.clone()), ("model_hash", end.model_hash.clone())];
    rows.extend(end.weights.clone().map(|weights| ("weights", weights)));
    rows.push(("tokenizer_hash", end.tokenizer_hash.clone()));
    rows.push(("hidden_dim", end.hidden_dim.to_string()));
    rows.push(("rows", end.rows.to_string()));
    rows
}

fn record(path: &Path, map: &ProjectionMap) -> Value {
    let end = |end: &MapEnd| {
        json!({
            "model_id": end.model_id,
            "model_hash": end.model_hash,
            "weights": end.weights,
            "tokenizer_hash": end.tokenizer_hash,
            "hidden_dim": end.hidden_dim,
            "rows": end.rows,
        })
    };
    json!({
        "file": path.display().to_string(),
        "id": id(path),
        "method": map.projection.method(),
        "shared_tokens": map.projection.shared_tokens(),
        "target_norm": map.target_norm,
        "source": end(&map.source),
        "target": end(&map.target),
        "validation": map.validation.map(|found| json!({
            "cosine": found.cosine,
            "perplexity": found.perplexity,
        })),
    })
}
