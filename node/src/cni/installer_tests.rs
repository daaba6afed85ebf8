use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "ptp"}]}"#;

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn installer(folder: &Path) -> Installer {
    let at = |name: &str| {
        let path = folder.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let plugin = at("image").join(PLUGIN);
    fs::write(&plugin, "program").unwrap();
    Installer {
        conf_dir: at("net.d"),
        bin_dir: at("bin"),
        plugin,
        own: OwnConfig {
            socket: "/s".into(),
            system_namespace: "culvert-system".into(),
            exclude_namespaces: Vec::new(),
            deadline_ms: 1000,
        },
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn program_and_entry_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let installer = installer(folder.path());
    assert_eq!(installer.install().unwrap(), Chain::NoNetwork);
    let list = installer.conf_dir.join("10-n.conflist");
    fs::write(&list, LIST).unwrap();
    let chain = |repaired| Chain::In { file: "10-n.conflist".into(), repaired };
    assert_eq!(installer.install().unwrap(), chain(true));
    assert_eq!(installer.install().unwrap(), chain(false));
    let program = installer.bin_dir.join(PLUGIN);
    assert_eq!(fs::read(&program).unwrap(), b"program");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    // An upgrade brings another program.
    fs::write(&installer.plugin, "program 2").unwrap();
    installer.install().unwrap();
    assert_eq!(fs::read(&program).unwrap(), b"program 2");
    installer.remove().unwrap();
    installer.remove().unwrap();
    assert!(names(&installer.bin_dir).is_empty());
    assert_eq!(names(&installer.conf_dir), ["10-n.conflist"]);
    assert!(!fs::read_to_string(&list).unwrap().contains(PLUGIN));
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut installer = installer(folder.path());
    installer.conf_dir = folder.path().join("nowhere");
    assert!(installer.install().unwrap_err().to_string().contains("nowhere"));
    installer.plugin = folder.path().join("none");
    assert!(installer.install().unwrap_err().to_string().contains("none"));
}

#[tokio::test]
async fn an_overwritten_chain_is_repaired_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let installer = installer(folder.path());
    let list = installer.conf_dir.join("10-n.conflist");
    let (tell, mut told) = mpsc::unbounded_channel();
    let keeper = tokio::spawn(installer.clone().keep(move |chain| tell.send(chain).unwrap()));
    let mut next = async || timeout(SOON, told.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, Chain::NoNetwork);
    // Another CNI writes its list; it does so again later, in place and by a rename.
    for round in 0..3 {
        let began = Instant::now();
        if round == 2 {
            fs::write(installer.conf_dir.join("tmp"), LIST).unwrap();
            fs::rename(installer.conf_dir.join("tmp"), &list).unwrap();
        } else {
            fs::write(&list, LIST).unwrap();
        }
        loop {
            if next().await == (Chain::In { file: "10-n.conflist".into(), repaired: true }) {
                break;
            }
        }
        assert!(fs::read_to_string(&list).unwrap().contains(PLUGIN));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        // Its own change, seen once more.
        assert_eq!(next().await, Chain::In { file: "10-n.conflist".into(), repaired: false });
    }
    keeper.abort();
}
