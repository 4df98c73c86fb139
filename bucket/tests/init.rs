//! `bucket init` against a server that has everything (moto) and one that has neither CORS nor lifecycle rules (s3s-fs).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

#[path = "../../media-core/tests/publish/servers.rs"]
mod servers;

use std::net::SocketAddr;

use ghost_live_bucket::{Bucket, Step};
use servers::{ACCESS_KEY, SECRET_KEY, Server, free_address};

fn bucket(address: SocketAddr) -> Bucket {
    Bucket {
        endpoint: Some(format!("http://{address}")),
        region: "us-east-1".into(),
        name: "media".into(),
        path_style: true,
        access_key_id: ACCESS_KEY.into(),
        secret_access_key: SECRET_KEY.into(),
    }
}

/// Asked without a client of ours; moto wants no signature.
async fn get(address: SocketAddr, query: &str) -> String {
    let url = format!("http://{address}/media?{query}");
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn the_bucket_gets_its_rules_and_init_may_be_run_again() {
    let address = free_address();
    let _server = Server::moto(address);
    let steps = bucket(address).init(Some(7)).await.unwrap();
    assert!(
        steps.iter().all(|step| matches!(step, Step::Done(_))),
        "{steps:?}"
    );
    assert!(steps[0].to_string().contains("created"), "{steps:?}");
    let again = bucket(address).init(Some(7)).await.unwrap();
    assert!(again[0].to_string().contains("is there"), "{again:?}");
    let cors = get(address, "cors").await;
    for part in [
        "<AllowedOrigin>*</AllowedOrigin>",
        "<AllowedMethod>GET</AllowedMethod>",
        "<AllowedMethod>HEAD</AllowedMethod>",
        "<ExposeHeader>ETag</ExposeHeader>",
        "<ExposeHeader>Content-Range</ExposeHeader>",
    ] {
        assert!(cors.contains(part), "{part} is not in {cors}");
    }
    let lifecycle = get(address, "lifecycle").await;
    for part in [
        "<Days>7</Days>",
        "<DaysAfterInitiation>1</DaysAfterInitiation>",
        "<Status>Enabled</Status>",
    ] {
        assert!(lifecycle.contains(part), "{part} is not in {lifecycle}");
    }
    let kept = bucket(address).init(None).await.unwrap();
    assert!(kept[2].to_string().contains("never expire"), "{kept:?}");
    assert!(!get(address, "lifecycle").await.contains("<Days>"));
}

#[tokio::test]
async fn what_a_server_has_not_is_said_in_words_and_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let _server = Server::s3s(folder.path(), address);
    let steps = bucket(address).init(Some(1)).await.unwrap();
    assert!(folder.path().join("media").is_dir());
    assert!(matches!(steps[0], Step::Done(_)), "{steps:?}");
    for (step, word) in steps[1..].iter().zip(["CORS", "lifecycle"]) {
        assert!(
            matches!(step, Step::NotThere(text) if text.contains(word)),
            "{steps:?}"
        );
    }
}

#[tokio::test]
async fn a_wrong_key_pair_and_a_server_that_is_not_there_are_failures() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let server = Server::s3s(folder.path(), address);
    let mut wrong = bucket(address);
    wrong.access_key_id = "somebody-else".into();
    let error = wrong.init(Some(1)).await.unwrap_err().to_string();
    assert!(error.contains("the bucket media"), "{error}");
    assert!(!error.contains(SECRET_KEY), "{error}");
    drop(server);
    assert!(bucket(address).init(Some(1)).await.is_err());
}
