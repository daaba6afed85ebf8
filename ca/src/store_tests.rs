use super::*;
use std::process::{Command, Stdio};

const FOLDER: &str = "CULVERT_TEST_FOLDER";

fn open(folder: &Path) -> Result<AuthorityFiles, StoreError> {
    open_or_make(folder, "cluster.local", SystemTime::now())
}

#[test]
fn a_restart_keeps_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    let second = open(folder.path()).unwrap();
    assert_eq!((first.certificate, first.key), (second.certificate, second.key));
    let mode = fs::metadata(folder.path().join("authority").join(KEY)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn half_an_authority_is_refused_and_left_alone() {
    for gone in [KEY, CERTIFICATE] {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        fs::remove_file(folder.path().join("authority").join(gone)).unwrap();
        let Err(error) = open(folder.path()) else { panic!("accepted without {gone}") };
        assert!(matches!(error, StoreError::Half { .. }), "{error}");
        assert!(error.to_string().contains("backup"), "{error}");
        assert!(!folder.path().join("authority").join(gone).exists());
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let key = folder.path().join("authority").join(KEY);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::Exposed { mode: 0o640, .. })));
}

#[test]
fn what_a_crash_left_is_cleared_away() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("authority.making")).unwrap();
    fs::write(folder.path().join("authority.making").join(KEY), "half").unwrap();
    assert!(open(folder.path()).is_ok());
    assert!(!folder.path().join("authority.making").exists());
}

/// Run by the next test in processes of their own; does nothing otherwise.
#[test]
fn child_opens_the_folder() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let files = open(Path::new(&folder)).unwrap();
        println!("root:{}:end", files.certificate.replace('\n', ""));
    }
}

#[test]
fn processes_that_start_at_once_share_one_root() {
    let folder = tempfile::tempdir().unwrap();
    let own = std::env::current_exe().unwrap();
    let mut children: Vec<_> = (0..6)
        .map(|_| {
            let mut command = Command::new(&own);
            command.args(["--exact", "store::tests::child_opens_the_folder", "--nocapture"]);
            command.env(FOLDER, folder.path()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut roots = std::collections::HashSet::new();
    for child in children.drain(..) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let root = text.split("root:").nth(1).unwrap().split(":end").next().unwrap();
        roots.insert(root.to_owned());
    }
    assert_eq!(roots.len(), 1);
}
