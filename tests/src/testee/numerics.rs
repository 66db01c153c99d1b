//! Projections, through the backend that is made of given tables.

use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_backend::{
    Backend, LatentProjection, LinearMap, ProjectionError, ProjectionOptions, SharedTokens,
    projection_metrics, scale_to_norm, vocabulary_mediated,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::error::Failure;
use super::form::read;

pub(super) fn answer(op: &str, fields: Value) -> Option<Answer> {
    Some(match op {
        "vocabulary_mediated" => mediated(fields),
        "projection_metrics" => metrics(fields),
        "soft_embedding" => soft_embedding(fields),
        "linear_map" => linear_map(fields),
        "scale_to_norm" => scaled(fields),
        _ => return None,
    })
}

impl From<ProjectionError> for Failure {
    fn from(error: ProjectionError) -> Self {
        Self::invalid(error)
    }
}

/// Input embeddings `[vocabulary, dim]`, row-major.
#[derive(Deserialize)]
struct Table {
    dim: usize,
    values: Vec<f32>,
}

impl Table {
    fn backend(self, name: &str) -> MatrixBackend {
        let tables = MatrixTables { hidden_dim: self.dim, input: self.values, output: None };
        MatrixBackend::new(name, tables, 64)
    }
}

#[derive(Deserialize)]
struct Projection {
    source: Table,
    target: Table,
    /// `[n, source.dim]`
    hidden: Vec<f32>,
    temperature: f32,
    #[serde(default)]
    target_norm: Option<f32>,
}

fn mediated(fields: Value) -> Answer {
    let request: Projection = read(fields)?;
    let dim = request.target.dim;
    let (source, target) = (request.source.backend("source"), request.target.backend("target"));
    let options = ProjectionOptions {
        temperature: request.temperature,
        target_norm: request.target_norm,
        ..Default::default()
    };
    Ok(rows(&vocabulary_mediated(&source, &target, &request.hidden, &options)?, dim))
}

fn metrics(fields: Value) -> Answer {
    let request: Projection = read(fields)?;
    let dim = request.source.dim;
    let (source, target) = (request.source.backend("source"), request.target.backend("target"));
    let options = ProjectionOptions {
        temperature: request.temperature,
        target_norm: request.target_norm,
        nearest_cosine: true,
        ..Default::default()
    };
    let shared = SharedTokens::Same(source.info().vocab_size.min(target.info().vocab_size));
    let mut found = Vec::new();
    for hidden in request.hidden.chunks_exact(dim) {
        let projected = vocabulary_mediated(&source, &target, hidden, &options)?;
        found.push(projection_metrics(&source, &target, &shared, hidden, &projected, &options)?);
    }
    Ok(json!({
        "entropy": found.iter().map(|m| m.entropy).collect::<Vec<_>>(),
        "max_prob": found.iter().map(|m| m.top_probability).collect::<Vec<_>>(),
        "logit_gap": found.iter().map(|m| m.top2_gap).collect::<Vec<_>>(),
        "hidden_state_norm": found.iter().map(|m| m.hidden_norm).collect::<Vec<_>>(),
        "nearest_cos_sim": found.iter().map(|m| m.nearest_cosine).collect::<Vec<_>>(),
    }))
}

#[derive(Deserialize)]
struct Soft {
    table: Table,
    hidden: Vec<f32>,
}

fn soft_embedding(fields: Value) -> Answer {
    let Soft { table, hidden } = read(fields)?;
    let dim = table.dim;
    let backend = table.backend("model");
    let projection = LatentProjection::for_backend(&backend, None)?;
    let mut out = Vec::new();
    for hidden in hidden.chunks_exact(dim) {
        out.extend(projection.apply(&backend, hidden)?);
    }
    Ok(rows(&out, dim))
}

#[derive(Deserialize)]
struct Map {
    source_dim: usize,
    target_dim: usize,
    /// `[source_dim, target_dim]`
    matrix: Vec<f32>,
    #[serde(default)]
    bias: Option<Vec<f32>>,
    target_norm: f32,
    hidden: Vec<f32>,
}

fn linear_map(fields: Value) -> Answer {
    let request: Map = read(fields)?;
    let map = LinearMap::new(request.matrix, request.bias, request.target_norm);
    let out: Vec<f32> = request.hidden.chunks_exact(request.source_dim).flat_map(|h| map.apply(h)).collect();
    Ok(rows(&out, request.target_dim))
}

#[derive(Deserialize)]
struct Scale {
    dim: usize,
    hidden: Vec<f32>,
    target_norm: f32,
}

fn scaled(fields: Value) -> Answer {
    let Scale { dim, mut hidden, target_norm } = read(fields)?;
    hidden.chunks_exact_mut(dim).for_each(|row| scale_to_norm(row, target_norm));
    Ok(rows(&hidden, dim))
}

fn rows(values: &[f32], dim: usize) -> Value {
    json!({ "out": values.chunks_exact(dim).collect::<Vec<_>>() })
}
