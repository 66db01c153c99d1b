//! To and from `serde_json`, which applications use for capabilities.

use serde_json::{Map, Number, Value};

use super::{Integer, Json, Key};

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Number(n) => from_number(n),
            Value::String(s) => Json::String(s.clone()),
            Value::Array(items) => Json::Array(items.iter().map(Json::from).collect()),
            Value::Object(map) => Json::from(map),
        }
    }
}

impl From<&Map<String, Value>> for Json {
    fn from(map: &Map<String, Value>) -> Self {
        Json::Object(map.iter().map(|(k, v)| (Key::Str(k.clone()), Json::from(v))).collect())
    }
}

fn from_number(number: &Number) -> Json {
    if let Some(i) = number.as_i64() {
        Json::Int(Integer::from(i))
    } else if let Some(u) = number.as_u64() {
        Json::Int(Integer::from(u))
    } else {
        Json::Float(number.as_f64().unwrap_or(f64::NAN))
    }
}

impl Json {
    /// The document for `serde_json`, which holds less: a float that is not finite becomes null, an integer beyond
    /// 64 bits a float.
    #[must_use]
    pub fn to_serde(&self) -> Value {
        match self {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Int(i) => to_number(i).map_or(Value::Null, Value::Number),
            Json::Float(f) => Number::from_f64(*f).map_or(Value::Null, Value::Number),
            Json::String(s) => Value::String(s.clone()),
            Json::Array(items) => Value::Array(items.iter().map(Json::to_serde).collect()),
            Json::Object(entries) => {
                Value::Object(entries.iter().map(|(k, v)| (k.to_string(), v.to_serde())).collect())
            }
        }
    }
}

fn to_number(integer: &Integer) -> Option<Number> {
    let text = integer.to_string();
    if let Ok(i) = text.parse::<i64>() {
        return Some(Number::from(i));
    }
    if let Ok(u) = text.parse::<u64>() {
        return Some(Number::from(u));
    }
    text.parse::<f64>().ok().and_then(Number::from_f64)
}
