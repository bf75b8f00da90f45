//! `conf/kubernetes`: the manifests are what Kubernetes takes, and fit the configuration that they bring.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bywash_common::config::{Config, ConfigArgs};
use bywash_tests::harness::{process::run, tool, wait::TIMEOUT};
use serde_json::Value;

/// The oldest release that has what is used (sidecars that stop last), and the newest whose schemas are there.
const RELEASES: [&str; 2] = ["1.29", "1.37"];
/// What has a schema of Kubernetes's own.
const MANIFESTS: [&str; 2] = ["daemonset.yaml", "namespace.yaml"];

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/kubernetes").join(name).canonicalize().unwrap()
}

/// A configuration; the machine's environment is not looked at.
fn read(path: &Path) -> Config {
    let args = ConfigArgs { config: Some(path.to_owned()), ..ConfigArgs::default() };
    Config::load(&args).unwrap_or_else(|e| panic!("{e}"))
}

/// A manifest, read as Kubernetes's tools read it.
fn manifest(name: &str) -> Value {
    let program = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let python = tool("kubernetes/bin/python");
    let done = run(Command::new(python).args(["-c", program]).arg(conf(name)), TIMEOUT);
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"))
}

#[test]
fn the_manifests_are_what_kubernetes_takes() {
    for release in RELEASES {
        let mut validate = Command::new(tool("kubernetes/bin/kubernetes-validate"));
        validate.args(["--strict", "--kubernetes-version", release]).args(MANIFESTS.map(conf));
        let done = run(&mut validate, TIMEOUT);
        assert_eq!(done.code, Some(0), "{release}: {done:?}");
        let passed = done.stdout.matches(" passed ").count() + done.stderr.matches(" passed ").count();
        assert_eq!(passed, MANIFESTS.len(), "{release}: {done:?}");
    }
    // A schema that takes anything would show nothing.
    let directory = bywash_tests::harness::temporary_directory();
    let wrong = directory.path().join("wrong.yaml");
    let text = fs::read_to_string(conf("daemonset.yaml")).unwrap();
    assert!(text.contains("hostPID:"));
    fs::write(&wrong, text.replace("hostPID:", "hostPid:")).unwrap();
    let mut validate = Command::new(tool("kubernetes/bin/kubernetes-validate"));
    let done = run(validate.args(["--strict", "--kubernetes-version", RELEASES[0]]).arg(&wrong), TIMEOUT);
    assert_ne!(done.code, Some(0), "{done:?}");
}

#[test]
fn the_base_names_files_that_are_there() {
    let base = manifest("kustomization.yaml");
    let generated = &base["configMapGenerator"][0];
    let files =
        [&base["resources"], &generated["files"]].map(|list| list.as_array().unwrap().clone()).concat();
    assert!(files.len() > 2);
    for file in &files {
        conf(file.as_str().unwrap());
    }
    let daemons = manifest("daemonset.yaml");
    let volumes = daemons["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["configMap"]["name"] == generated["name"]), "{volumes:?}");
}

#[test]
fn the_containers_have_what_the_configuration_names() {
    let config = read(&conf("bywash.toml"));
    let daemons = manifest("daemonset.yaml");
    let pod = &daemons["spec"]["template"]["spec"];
    let agent = &pod["containers"][0];
    let publisher =
        pod["initContainers"].as_array().unwrap().iter().find(|one| one["name"] == "publisher").unwrap();
    let mounted = |container: &Value, path: &str| -> Value {
        let mounts = container["volumeMounts"].as_array().unwrap();
        mounts.iter().find(|mount| mount["mountPath"] == path).cloned().unwrap_or(Value::Null)
    };
    assert!(!config.directories.is_empty());
    for directory in &config.directories {
        // Above it: an overlay that is the root of a volume does not go from the containers that have it.
        let mount = mounted(agent, directory.path.parent().unwrap().to_str().unwrap());
        assert_eq!(mount["mountPropagation"], "Bidirectional", "{directory:?}");
        let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]);
        assert_eq!(volume.unwrap()["hostPath"]["path"], mount["mountPath"], "events have the node's path");
    }
    for shared in ["/etc/bywash", "/dev/shm"] {
        assert_eq!(mounted(agent, shared)["name"], mounted(publisher, shared)["name"]);
        assert_ne!(mounted(agent, shared), Value::Null, "{shared}");
    }
    assert_ne!(mounted(publisher, "/var/lib/bywash"), Value::Null);
    let port = config.metrics.listen.expect("an address for metrics").port();
    assert_eq!(publisher["ports"][0]["containerPort"], port);
    let seconds = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let longest = config.agent.stop_grace.0 + config.publisher.shutdown_timeout.0;
    assert!(seconds > longest.as_secs(), "{seconds} s for {longest:?}");
}
