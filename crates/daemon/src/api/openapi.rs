//! The API's own description, made from the types and handlers: OpenAPI 3.1 (<https://spec.openapis.org/oas/v3.1.0>).

use super::problem::{Code, MEDIA_TYPE, Problem};
use super::{generations, import, server, stream, view};
use hale_core::status::State;
use hale_core::world::dependency::Standing;
use std::collections::BTreeMap;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, OpenApi, ToSchema};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hale",
        description = "Live state and orders, on two Unix sockets in Hale's runtime directory: `read.sock` answers questions, \
                       `control.sock` takes orders too. History (incidents, the ledger) is read from files, also while Hale is \
                       down. Each connection takes one request. Fields are added, never renamed or removed.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    paths(
        server::status_of_all,
        server::status_of_one,
        server::start,
        server::stop,
        server::restart,
        server::pause,
        server::resume,
        server::reload,
        generations::deploy,
        generations::rollback,
        generations::generations,
        generations::quarantine,
        generations::clear,
        import::import,
        server::description,
        stream::records,
    ),
    components(schemas(Problem, view::Status, view::Done, view::generations::ServiceGenerations))
)]
struct Described;

/// The document.
pub(super) fn document() -> Document {
    Described::openapi()
}

/// What every order can be answered with.
pub(super) struct OrderAnswers;

/// What goes wrong with orders.
pub(super) struct OrderProblems;

impl IntoResponses for OrderProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        Code::ALL.map(|code| (code.status().as_u16().to_string(), problem(code).into())).into_iter().collect()
    }
}

impl IntoResponses for OrderAnswers {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let done = ResponseBuilder::new()
            .description("it is done")
            .content("application/json", ContentBuilder::new().schema(Some(reference::<view::Done>())).build());
        OrderProblems::responses().into_iter().chain([("200".to_owned(), done.build().into())]).collect()
    }
}

/// What a question can be answered with beside its answer.
pub(super) struct QuestionProblems;

impl IntoResponses for QuestionProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [Code::UnknownService, Code::Busy]
            .map(|code| (code.status().as_u16().to_string(), problem(code).into()))
            .into_iter()
            .collect()
    }
}

fn problem(code: Code) -> Response {
    ResponseBuilder::new()
        .description(code.status().canonical_reason().unwrap_or_default())
        .content(MEDIA_TYPE, ContentBuilder::new().schema(Some(reference::<Problem>())).build())
        .build()
}

fn reference<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> Schema {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build().into()
}

/// The states of a service.
pub(super) fn state() -> Schema {
    one_of(State::ALL.map(State::as_str))
}

/// What a dependency can be.
pub(super) fn standing() -> Schema {
    one_of([Standing::Unknown, Standing::Up, Standing::Down].map(Standing::as_str))
}

/// The modes of Hale.
pub(super) fn mode() -> Schema {
    one_of(["heal", "observe"])
}

/// The parts of a service that have generations.
pub(super) fn part() -> Schema {
    one_of(["store", "files"])
}

/// What names a generation.
pub(super) fn generation() -> Schema {
    let pattern = format!("^[!-~]{{1,{}}}$", hale_core::ids::GENERATION_MAX);
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build().into()
}

/// The same, or nothing.
pub(super) fn generation_or_null() -> Schema {
    let pattern = format!("^[!-~]{{1,{}}}$", hale_core::ids::GENERATION_MAX);
    let types = utoipa::openapi::schema::SchemaType::from_iter([Type::String, Type::Null]);
    ObjectBuilder::new().schema_type(types).pattern(Some(pattern)).build().into()
}

/// A service's or check's name.
pub(super) fn name() -> Schema {
    let max = hale_core::ids::NAME_MAX;
    let pattern = format!("^[a-z0-9][a-z0-9_.-]{{0,{}}}$", max - 1);
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::server::ROUTES;
    use serde_json::Value;

    #[test]
    fn all_routes_are_described_and_nothing_else() {
        let described: Vec<String> = document().paths.paths.keys().cloned().collect();
        let mut routes: Vec<&str> = ROUTES.iter().map(|(path, _)| *path).collect();
        routes.sort_unstable();
        assert_eq!(described, routes);
    }

    #[test]
    fn an_answer_has_the_fields_that_are_described() {
        let document = serde_json::to_value(document()).unwrap();
        let fields = |schema: &str| {
            let properties = document["components"]["schemas"][schema]["properties"].as_object();
            properties.unwrap().keys().cloned().collect::<Vec<_>>()
        };
        let keys = |value: &Value| {
            let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort_unstable();
            keys
        };
        let host = view::Host {
            at: String::new(),
            version: String::new(),
            mode: hale_core::policy::Mode::Heal,
            ledger_error: None,
            hardware_watchdog: None,
        };
        let mut described = fields("Host");
        described.sort_unstable();
        assert_eq!(keys(&serde_json::to_value(host).unwrap()), described);
        let reference = "#/components/schemas/Problem";
        let order = &document["paths"]["/v1/services/{service}/stop"]["post"]["responses"];
        assert_eq!(order["409"]["content"][MEDIA_TYPE]["schema"]["$ref"], reference);
    }
}
