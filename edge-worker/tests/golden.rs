//! A recorded broadcast gives the texts in `tests/worker/golden`, byte for byte. The Worker in workerd is held to the same files, so both
//! adapters render the same.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use ghost_live_edge_worker::{
    live::Broadcast,
    playlist::{Text, render},
};
use protocol::link::Numbered;

#[test]
fn a_recorded_broadcast_gives_the_same_texts_as_ever() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/worker/golden");
    let messages = fs::read_to_string(folder.join("messages.json")).unwrap();
    let messages: Vec<Numbered> = serde_json::from_str(&messages).unwrap();
    let (mut broadcast, _) = Broadcast::begin(&messages[0], 0).unwrap();
    for message in &messages[1..] {
        let _ = broadcast.apply(message, 0).unwrap();
    }
    let mut texts = vec![
        ("index.m3u8".to_owned(), Text::Multivariant),
        ("manifest.mpd".to_owned(), Text::Dash),
    ];
    for (track, live) in broadcast.tracks().iter().enumerate() {
        for (end, skip) in [("", false), (".delta", true)] {
            texts.push((
                format!("{}{end}.m3u8", live.name()),
                Text::Media { track, skip },
            ));
        }
    }
    for (file, text) in texts {
        let rendered = render(&broadcast, text);
        let path = folder.join(&file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, rendered).unwrap();
        } else {
            assert_eq!(rendered, fs::read_to_string(&path).unwrap(), "{file}");
        }
    }
}
