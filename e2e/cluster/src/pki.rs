//! Keys, certificates, tokens, and the files that hold them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::error::{ClusterError, Doing};
use crate::paths::Paths;
use crate::plan::{API_SERVICE, DOMAIN, HUB};

/// Who talks to the API server: user and group.
const ADMIN: (&str, &str) = ("culvert-admin", "system:masters");
const COMPONENTS: [(&str, &str); 3] =
    [("system:kube-controller-manager", ""), ("system:kube-scheduler", ""), ("system:kube-proxy", "")];

/// One who talks to the API server.
#[derive(Clone, Debug)]
struct Identity {
    user: String,
    groups: String,
    token: String,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Identities(Vec<Identity>);

/// Makes everything below `pki/`, and gives back who may call.
pub(crate) fn make(paths: &Paths, nodes: &[&str]) -> Result<Identities, ClusterError> {
    let ca = authority(paths)?;
    let service = format!("kubernetes.default.svc.{DOMAIN}");
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", &service, "localhost", "127.0.0.1"];
    let hub = HUB.to_string();
    let names: Vec<String> = names.iter().chain(&[API_SERVICE, hub.as_str()]).map(|n| (*n).to_owned()).collect();
    issue(paths, &ca, "apiserver", names, ("kube-apiserver", ""), ExtendedKeyUsagePurpose::ServerAuth)?;
    // Kubelets let it in by its group.
    let caller = ("kube-apiserver-kubelet-client", "system:masters");
    issue(paths, &ca, "kubelet-client", Vec::new(), caller, ExtendedKeyUsagePurpose::ClientAuth)?;
    let accounts = KeyPair::generate()?;
    write(&paths.pki("accounts.key"), &accounts.serialize_pem())?;
    write(&paths.pki("accounts.pub"), &accounts.public_key_pem())?;
    let identities = identities(nodes)?;
    let line = |i: &Identity| format!("{},{},{},\"{}\"\n", i.token, i.user, i.user, i.groups);
    write(&paths.pki("tokens.csv"), &identities.iter().map(line).collect::<String>())?;
    Ok(Identities(identities))
}

impl Identities {
    /// A kubeconfig for a user.
    pub(crate) fn kubeconfig(&self, user: &str, ca: &Path) -> Result<String, ClusterError> {
        let found = self.0.iter().find(|i| i.user == user);
        let token = &found.ok_or_else(|| ClusterError::Unfit(format!("no token was made for {user}")))?.token;
        let (ca, server) = (ca.display(), crate::plan::api_url());
        Ok(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: culvert\n\
             clusters:\n- name: culvert\n  cluster: {{server: \"{server}\", certificate-authority: \"{ca}\"}}\n\
             contexts:\n- name: culvert\n  context: {{cluster: culvert, user: \"{user}\"}}\n\
             users:\n- name: \"{user}\"\n  user: {{token: {token}}}\n"
        ))
    }

    /// The administrator's.
    pub(crate) fn admin(&self, ca: &Path) -> Result<String, ClusterError> {
        self.kubeconfig(ADMIN.0, ca)
    }
}

fn identities(nodes: &[&str]) -> Result<Vec<Identity>, ClusterError> {
    let kubelets = nodes.iter().map(|n| (format!("system:node:{n}"), "system:nodes".to_owned()));
    let others = COMPONENTS.iter().chain([&ADMIN]).map(|(u, g)| ((*u).to_owned(), (*g).to_owned()));
    kubelets.chain(others).map(|(user, groups)| Ok(Identity { user, groups, token: token()? })).collect()
}

fn authority(paths: &Paths) -> Result<Issuer<'static, KeyPair>, ClusterError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name("culvert-cluster-ca", "");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    write(&paths.pki("ca.pem"), &params.self_signed(&key)?.pem())?;
    write(&paths.pki("ca.key"), &key.serialize_pem())?;
    Ok(Issuer::new(params, key))
}

fn issue(
    paths: &Paths,
    ca: &Issuer<'_, KeyPair>,
    file: &str,
    names: Vec<String>,
    (user, group): (&str, &str),
    usage: ExtendedKeyUsagePurpose,
) -> Result<(), ClusterError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = name(user, group);
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    write(&paths.pki(&format!("{file}.pem")), &params.signed_by(&key, ca)?.pem())?;
    write(&paths.pki(&format!("{file}.key")), &key.serialize_pem())
}

fn name(user: &str, group: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !group.is_empty() {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    name
}

fn token() -> Result<String, ClusterError> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    read.doing(|| "cannot read /dev/urandom".to_owned())?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Writes a file that only root reads.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), ClusterError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).doing(|| format!("cannot make {}", folder.display()))?;
    let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes())).doing(|| format!("cannot write {}", path.display()))
}
