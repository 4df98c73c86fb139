//! The publisher against real servers.

use std::{net::SocketAddr, path::Path, sync::atomic::Ordering::Relaxed, time::Duration};

use ghost_live_media_core::publish::{Store, store::S3};
use object_store::{ObjectStoreExt, aws::AmazonS3Builder, path::Path as Key};
use protocol::link::CloseReason;

use crate::{
    FakeEdge, MINUTE, PARTS, announcement, begin, bytes, chunk, end_segment, options,
    servers::{ACCESS_KEY, SECRET_KEY, Server, free_address},
};

/// The configuration for such a server. The secret lies in a file of `folder`.
pub fn s3(address: SocketAddr, folder: &Path) -> S3 {
    let secret = folder.join("secret");
    std::fs::write(&secret, format!("{SECRET_KEY}\n")).unwrap();
    S3 {
        endpoint: Some(format!("http://{address}")),
        bucket: "media".into(),
        access_key_id: Some(ACCESS_KEY.into()),
        secret_access_key_file: Some(secret),
        ..S3::default()
    }
}

/// The bucket's folder, as the server keeps it: what the edge is told of must be in it.
fn reader(
    bucket: &Path,
) -> impl Fn(&protocol::object_key::ObjectKey) -> Option<bytes::Bytes> + use<> {
    let bucket = bucket.to_owned();
    move |key| {
        std::fs::read(bucket.join(key.to_string()))
            .ok()
            .map(Into::into)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_s3_server_that_is_killed_for_20_s_in_mid_stream_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("s3");
    let bucket = root.join("media");
    std::fs::create_dir_all(&bucket).unwrap();
    let address = free_address();
    let mut server = Some(Server::s3s(&root, address));
    let edge = FakeEdge::new(reader(&bucket));
    let store = Store::s3(&s3(address, folder.path())).unwrap();
    let (publisher, driver) = begin(options(store, &edge, folder.path()));
    let tracks = ["v-source", "v-480p30", "a-aac-128k"];
    for track in tracks {
        publisher.track(announcement(track, 0)).unwrap();
    }
    // Segments of one second of wall time, a quarter of a second a part; down from 4 s to 24 s.
    let msns = 28;
    let size = 30_000;
    for msn in 0..msns {
        match msn {
            4 => drop(server.take()),
            24 => server = Some(Server::s3s(&root, address)),
            _ => {}
        }
        for part in 0..PARTS {
            tokio::time::sleep(Duration::from_millis(250)).await;
            for track in tracks {
                publisher.part(chunk(track, msn, part, size)).unwrap();
            }
        }
        for track in tracks {
            end_segment(&publisher, track, msn).unwrap();
        }
        if msn == 23 {
            let announced = edge.state().tracks["v-source"].segments.len();
            assert!((3..=5).contains(&announced), "{announced} were announced");
            assert!(publisher.stats().waiting > 100);
        }
    }
    publisher
        .close(CloseReason::Unpublished, MINUTE)
        .await
        .unwrap();
    driver.abort();
    assert!(
        edge.connects.load(Relaxed) == 1,
        "the link has nothing to do with the store"
    );
    let state = edge.state();
    for track in tracks {
        let listed = &state.tracks[track];
        let whole: Vec<_> = (0..msns)
            .flat_map(|msn| (0..PARTS).map(move |part| (msn, part, bytes(track, msn, part, size))))
            .collect();
        assert!(listed.parts == whole, "{track}");
        assert!(listed.segments.iter().all(|segment| segment.1.is_some()));
    }
    drop(server);
}

#[tokio::test]
async fn an_s3_object_has_its_type_and_is_cacheable_for_a_year_and_a_sweep_removes_it() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    // moto keeps the headers with an object; s3s-fs does not keep Cache-Control.
    let _server = Server::moto(address);
    let config = s3(address, folder.path());
    // moto asks for no signature.
    let made = reqwest::Client::new().put(format!("http://{address}/media"));
    assert!(made.send().await.unwrap().status().is_success());
    let store = Store::s3(&config).unwrap();
    let direct = AmazonS3Builder::new()
        .with_endpoint(format!("http://{address}"))
        .with_allow_http(true)
        .with_bucket_name("media")
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .build()
        .unwrap();
    let key = crate::remote::key();
    store
        .put(&key, vec!["one ".into(), "and two".into()])
        .await
        .unwrap();
    let got = direct.get(&Key::from(key.to_string())).await.unwrap();
    let header = |name| got.attributes.get(&name).map(|value| value.to_string());
    assert_eq!(
        header(object_store::Attribute::ContentType).unwrap(),
        "video/mp4"
    );
    assert_eq!(
        header(object_store::Attribute::CacheControl).unwrap(),
        "public, max-age=31536000, immutable"
    );
    assert_eq!(got.bytes().await.unwrap(), "one and two");
    // What is not ours stays.
    let other = Key::from("demo/notes.txt");
    direct.put(&other, "mine".into()).await.unwrap();
    assert_eq!(store.sweep(MINUTE, |_| false).await.unwrap(), 0);
    assert_eq!(store.sweep(Duration::ZERO, |_| false).await.unwrap(), 1);
    assert!(direct.head(&Key::from(key.to_string())).await.is_err());
    direct.head(&other).await.unwrap();
    // Deleting what is not there is no error.
    store.delete(&key).await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_pair_or_setting_is_said_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("s3");
    std::fs::create_dir_all(root.join("media")).unwrap();
    let address = free_address();
    let _server = Server::s3s(&root, address);
    let mut config = s3(address, folder.path());
    config.access_key_id = Some("somebody-else".into());
    let store = Store::s3(&config).unwrap();
    let error = store
        .put(&crate::remote::key(), vec!["x".into()])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("InvalidAccessKeyId") || error.to_string().contains("403"),
        "{error}"
    );
    assert!(!root.join("media/demo").exists());
    config.bucket.clear();
    assert!(Store::s3(&config).is_err());
    config.bucket = "media".into();
    config.endpoint = Some("garage.example:3900".into());
    let error = Store::s3(&config).unwrap_err().to_string();
    assert!(error.contains("https://"), "{error}");
}
