use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::*;

const RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/n"}],
    "ips":[{"address":"10.0.0.5/24","gateway":"10.0.0.1","interface":1}],"dns":{"x":1},"ours":[1,2]}"#;

fn config(socket: &Path, result: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"n","type":"culvert-cni","socket":"{}","systemNamespace":"culvert-system",
        "excludeNamespaces":["kube-system"],"deadlineMs":200,"prevResult":{result}}}"#,
        socket.display()
    )
}

fn environment(command: &str, args: &str) -> BTreeMap<String, String> {
    let pairs = [
        ("CNI_COMMAND", command),
        ("CNI_ARGS", args),
        ("CNI_NETNS", "/var/run/netns/cni-1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_CONTAINERID", "c1"),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

const POD: &str =
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=c1";

fn ask(environment: &BTreeMap<String, String>, input: &str) -> (bool, Value) {
    let mut output = Vec::new();
    let good = run(environment, &mut input.as_bytes(), &mut output);
    (good, if output.is_empty() { Value::Null } else { serde_json::from_slice(&output).unwrap() })
}

/// An agent that reads one request and gives one answer.
fn agent(folder: &Path, answer: &'static str) -> (std::path::PathBuf, JoinHandle<(String, Value)>) {
    let path = folder.join("cni.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        (first, serde_json::from_slice(&body).unwrap())
    });
    (path, thread)
}

#[test]
fn a_pod_is_handed_over_and_the_result_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, thread) = agent(folder.path(), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let (good, answer) = ask(&environment("ADD", POD), &config(&socket, RESULT));
    assert!(good, "{answer}");
    assert_eq!(answer, serde_json::from_str::<Value>(RESULT).unwrap());
    let (first, body) = thread.join().unwrap();
    assert_eq!(first, "POST /cmdadd HTTP/1.1\r\n");
    let expected = json!({
        "Netns": "/var/run/netns/cni-1", "PodName": "web-1", "PodNamespace": "shop", "PodUID": "u1", "Device": "eth0",
        "IPs": [{"Interface": 1, "Address": "10.0.0.5/24", "Gateway": "10.0.0.1"}],
    });
    assert_eq!(body, expected);
}

#[test]
fn a_refusal_fails_the_sandbox_with_the_agents_words() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, thread) = agent(folder.path(), "HTTP/1.1 503 Service Unavailable\r\n\r\nno proxy within 30s\n");
    let (good, answer) = ask(&environment("ADD", POD), &config(&socket, RESULT));
    assert!(!good);
    assert_eq!((answer["code"].as_u64(), answer["cniVersion"].as_str()), (Some(101), Some("1.0.0")));
    assert!(answer["msg"].as_str().unwrap().contains("shop/web-1 is not captured: no proxy within 30s"), "{answer}");
    thread.join().unwrap();
}

#[test]
fn without_an_agent_only_pods_that_are_never_captured_start() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none.sock");
    for (args, starts) in [
        (POD, false),
        ("K8S_POD_NAMESPACE=culvert-system;K8S_POD_NAME=culvert-node-x", true),
        ("K8S_POD_NAMESPACE=culvert-system-2;K8S_POD_NAME=culvert-node-x", false),
        ("K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns", true),
        ("", true),
        ("K8S_POD_NAME=half", true),
    ] {
        let (good, answer) = ask(&environment("ADD", args), &config(&nowhere, RESULT));
        assert_eq!(good, starts, "{args}: {answer}");
        if !starts {
            assert_eq!(answer["code"], 100, "{answer}");
            assert!(answer["details"].as_str().unwrap().contains("culvert-node"), "{answer}");
        }
    }
}

#[test]
fn a_silent_agent_is_not_waited_for_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cni.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = call::post(&path, "/cmdadd", &json!({}), Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, call::CallError::Late(_)), "{error}");
}

#[test]
fn other_commands_need_no_agent() {
    let nowhere = Path::new("/nonexistent/cni.sock");
    for command in ["DEL", "CHECK", "STATUS", "GC"] {
        assert_eq!(ask(&environment(command, POD), &config(nowhere, RESULT)), (true, Value::Null), "{command}");
    }
    // The runtime may have lost the configuration by the time a pod goes.
    assert_eq!(ask(&environment("DEL", POD), ""), (true, Value::Null));
    let (good, versions) = ask(&environment("VERSION", ""), r#"{"cniVersion":"1.0.0"}"#);
    assert!(good && versions["supportedVersions"].as_array().unwrap().contains(&json!("0.3.1")), "{versions}");
}

#[test]
fn what_is_wrong_is_named() {
    let nowhere = Path::new("/nonexistent/cni.sock");
    let good = config(nowhere, RESULT);
    for (command, input, code, word) in [
        ("ADD", "{", 6, "configuration"),
        ("ADD", &good.replace(r#""cniVersion":"1.0.0","name""#, r#""cniVersion":"9.9.9","name""#), 1, "9.9.9"),
        ("ADD", &config(nowhere, "null"), 7, "before this one"),
        ("CHECK", &config(nowhere, "null"), 7, "before this one"),
        ("ADD", &good.replace("systemNamespace", "x"), 7, "systemNamespace"),
        ("FLY", &good, 4, "FLY"),
    ] {
        let (fine, answer) = ask(&environment(command, POD), input);
        assert!(!fine);
        assert_eq!(answer["code"], code, "{answer}");
        assert!(answer["msg"].as_str().unwrap().contains(word), "{answer}");
    }
    let (fine, answer) = ask(&BTreeMap::new(), &good);
    assert!(!fine && answer["msg"].as_str().unwrap().contains("CNI_COMMAND"), "{answer}");
}
