#![allow(clippy::unwrap_used)]
use std::collections::HashSet;

use strum::IntoEnumIterator;

use super::*;
use crate::routes::{Kind, RouteDiscriminants};

fn read() -> Value {
    serde_json::from_str(document()).unwrap()
}

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let methods = |(path, methods): (&String, &'_ Value)| -> Vec<(String, String)> {
        let methods = methods.as_object().unwrap().keys();
        methods
            .map(|method| (path.clone(), method.clone()))
            .collect()
    };
    let named: Vec<_> = paths.iter().flat_map(methods).collect();
    named
        .into_iter()
        .map(|(path, method)| {
            let told = &document["paths"][&path][&method];
            (path, method, told)
        })
        .collect()
}

#[test]
fn every_route_is_described() {
    let mut schemas = Schemas::new();
    let mut seen = HashSet::new();
    for (method, address) in ADDRESSES {
        let parts: BTreeMap<_, _> = names(address)
            .map(|name| (name, parameter(name, &mut schemas).unwrap()))
            .collect();
        let route = route(method, address, &parts);
        let route = route.unwrap_or_else(|| panic!("{method} {address} is no address"));
        seen.insert(RouteDiscriminants::from(&route));
    }
    for route in RouteDiscriminants::iter() {
        assert!(seen.contains(&route), "{route:?} has no address");
    }
}

#[test]
fn every_address_is_in_the_document_under_a_name_of_its_own() {
    let document = read();
    let all = operations(&document);
    assert_eq!(all.len(), ADDRESSES.len());
    let ids: HashSet<_> = (all.iter())
        .map(|(.., told)| told["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), all.len());
}

#[test]
fn every_method_that_an_address_takes_is_described_and_no_other() {
    let document = read();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let mut schemas = Schemas::new();
        let parts: BTreeMap<_, _> = names(path)
            .map(|name| (name, parameter(name, &mut schemas).unwrap()))
            .collect();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let taken = route(&method.parse().unwrap(), path, &parts).is_some();
            let described = methods.get(method.to_ascii_lowercase()).is_some();
            assert_eq!(taken, described, "{method} {path}");
        }
    }
}

#[test]
fn every_kind_of_problem_is_somewhere_or_cannot_be_told_by_an_operation() {
    let text = document();
    for kind in Kind::iter() {
        let told = text.contains(&format!("\"{}\"", kind.name()));
        // What an address that there is not answers, what the wrong method does, and what nobody should see.
        let elsewhere = matches!(kind, Kind::Internal);
        assert_eq!(told, !elsewhere, "{}", kind.slug());
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(to)) => found.push(to),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = read();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for to in found {
        let pointer = to.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{to}");
    }
}

#[test]
fn no_type_is_read_in_another_form_than_it_is_written_under_one_name() {
    let mut schemas = Schemas::new();
    for (method, address) in ADDRESSES {
        described(method, address, &mut schemas).unwrap();
    }
    let written = schemas.written.take_definitions(true);
    for (name, schema) in schemas.read.take_definitions(true) {
        if let Some(other) = written.get(&name) {
            assert_eq!(*other, schema, "{name}");
        }
    }
}

#[test]
fn the_document_is_small_and_names_no_part_of_the_source() {
    let text = document();
    assert!(text.len() < 256 * 1024, "{} bytes", text.len());
    assert!(!text.contains("crate::") && !text.contains("[`"));
    assert!(etag().starts_with("W/\"") && etag().len() == 20);
}
