//! The description of the surface, and what it promises of bodies and of streams that are not there.

use super::*;

#[tokio::test]
async fn the_description_is_served_as_it_is_made_and_not_sent_again() {
    let bench = Bench::start().await;
    let client = reqwest::Client::new();
    let url = bench.url("/api/openapi.json");
    let first = client.get(&url).send().await.unwrap();
    assert_eq!(first.status(), 200);
    assert_eq!(
        first.headers()["content-type"],
        crate::openapi::CONTENT_TYPE
    );
    assert_eq!(first.headers()["cache-control"], "no-cache");
    assert_eq!(first.headers()["access-control-allow-origin"], "*");
    let tag = first.headers()["etag"].clone();
    assert_eq!(first.text().await.unwrap(), crate::openapi::document());
    let again = client.get(&url).header("if-none-match", tag);
    let again = again.send().await.unwrap();
    assert_eq!(again.status(), 304);
    let posted = client.post(&url).send().await.unwrap();
    assert_eq!(posted.status(), 405);
    assert_eq!(posted.headers()["allow"], "GET, HEAD, OPTIONS");
}
