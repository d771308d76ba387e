//! `outlast certificate`: what promotions stated, and whether that is what was signed.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use outlast_standby::certificate::{
    Certificate, CertificateFault, Signer, StoredCertificate, Verified, known_signers,
    read_certificate_file, signature_path, stored_certificates, verify,
};
use outlast_standby::{Card, NodeDir};
use outlast_tools::exit::Exit;
use serde_json::json;

use crate::Global;
use crate::failure::Failure;
use crate::node::failed;
use crate::output::table;

/// List, show and check the certificates of promotions
///
/// A node keeps one for each of its promotions, signed with its key, in `promotions/`. They can be
/// checked anywhere: two files, and the node's card.
#[derive(Debug, Subcommand)]
pub(crate) enum CertificateCommand {
    /// List the certificates that this node keeps, the oldest first
    List,
    /// Show a certificate
    Show {
        /// Its file [default: the newest that this node keeps]
        file: Option<PathBuf>,
    },
    Verify(Verify),
}

/// Check that a certificate is what the promoted node signed
///
/// Ends with 0 and says VALID and who signed; with 5 if the file is not what was signed, and with 4
/// if nobody here knows the signer's key.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  outlast certificate verify --dir DIR DIR/promotions/cert-2-1f0a33c9.json
  outlast certificate verify cert-2-1f0a33c9.json --trust \"$(cat card-of-pangyo-b)\"")]
pub(crate) struct Verify {
    /// The certificate
    file: PathBuf,
    /// Its signature [default: the file beside it that ends in `.sig` as well]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Trust this node: the line that `outlast pin show` prints there. Besides the node of --dir
    /// and the peers that it trusts
    #[arg(long, value_name = "CARD")]
    trust: Vec<Card>,
}

impl CertificateCommand {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::List => list(global),
            Self::Show { file } => show(global, file.as_deref()),
            Self::Verify(verify) => verify.run(global),
        }
    }
}

impl Verify {
    fn run(&self, global: &Global) -> Result<Exit, Failure> {
        let mut trusted: Vec<Signer> = self.trust.iter().cloned().map(Signer::from).collect();
        if let Some(dir) = global.place.named_dir()? {
            trusted.extend(known_signers(&NodeDir::new(dir)).map_err(failed)?);
        }
        if trusted.is_empty() {
            let error = anyhow::anyhow!("nothing says whose signature to trust");
            let failure = Failure::new(Exit::Usage, error);
            return Err(failure.hint(
                "name the node's directory with --dir, or its card (`outlast pin show`) with --trust",
            ));
        }
        let signature = self.signature.clone();
        let signature = signature.unwrap_or_else(|| signature_path(&self.file));
        let (text, signature) = (read(&self.file)?, read(&signature)?);
        let verified = verify(&text, &signature, &trusted).map_err(not_valid)?;
        let value = json!({
            "schema": 1,
            "valid": true,
            "signer": {
                "node": verified.signer.node,
                "name": verified.signer.name,
                "cluster": verified.signer.cluster,
                "pin": verified.signer.pin.to_string(),
            },
            "certificate": verified.certificate,
        });
        global.output.result(&value, || valid(&verified))?;
        Ok(Exit::Ok)
    }
}

fn valid(verified: &Verified) -> String {
    let signer = &verified.signer;
    let name = format!("{} (node {})", signer.name, signer.node);
    let mut lines = vec![
        format!("VALID           signed by {name}"),
        format!("key             {}", signer.pin),
    ];
    if let Some(epoch) = &verified.certificate.epoch {
        let at = when(epoch.wall_ms);
        lines.push(format!(
            "promotion       epoch {}.{}/{} on {at}, by that node's clock: {}",
            epoch.term,
            epoch.start,
            epoch.id.short(),
            epoch.note
        ));
    }
    lines.join("\n")
}

/// A certificate that does not hold, as the command line ends.
fn not_valid(fault: CertificateFault) -> Failure {
    let exit = match &fault {
        CertificateFault::UnknownSigner { .. } => Exit::Refused,
        _ => Exit::Corruption,
    };
    Failure::new(exit, anyhow::Error::new(fault).context("NOT VALID"))
}

fn list(global: &Global) -> Result<Exit, Failure> {
    let kept = stored(global)?;
    let values = kept.iter().map(|kept| {
        json!({
            "file": kept.path,
            "has_signature": kept.has_signature,
            "unreadable": kept.certificate.as_ref().err(),
            "epoch": kept.certificate.as_ref().ok().and_then(|it| it.epoch.as_ref()),
        })
    });
    let values = json!({ "schema": 1, "certificates": values.collect::<Vec<_>>() });
    global.output.result(&values, || {
        if kept.is_empty() {
            return "this node keeps no certificate: it was never promoted".to_owned();
        }
        let rows = kept.iter().map(row);
        table(["file", "epoch", "promoted", "fencing", "signature"], rows)
    })?;
    Ok(Exit::Ok)
}

fn row(kept: &StoredCertificate) -> Vec<String> {
    let mut row = vec![kept.path.display().to_string()];
    match &kept.certificate {
        Ok(certificate) => {
            let epoch = certificate.epoch.as_ref();
            row.push(epoch.map_or("-".to_owned(), |epoch| {
                format!("{}.{}/{}", epoch.term, epoch.start, epoch.id.short())
            }));
            row.push(when(certificate.wall_ms));
            row.push(format!("{:?}", certificate.fencing).to_uppercase());
        }
        Err(_) => row.extend(["UNREADABLE".to_owned(), "-".to_owned(), "-".to_owned()]),
    }
    let signature = if kept.has_signature { "yes" } else { "none" };
    row.push(signature.to_owned());
    row
}

fn show(global: &Global, file: Option<&Path>) -> Result<Exit, Failure> {
    let (path, certificate) = match file {
        Some(file) => {
            let parsed = serde_json::from_slice::<Certificate>(&read(file)?);
            let parsed = parsed.map_err(|error| {
                let error = anyhow::Error::new(error);
                let what = format!("{} is no certificate", file.display());
                Failure::new(Exit::Corruption, error.context(what))
            });
            (file.to_owned(), parsed?)
        }
        None => {
            let newest = stored(global)?.into_iter().rev();
            let mut readable = newest.filter_map(|it| Some((it.path, it.certificate.ok()?)));
            readable.next().ok_or_else(|| {
                let error = anyhow::anyhow!("this node keeps no certificate that can be read");
                Failure::new(Exit::Refused, error).hint("outlast certificate list")
            })?
        }
    };
    global.output.result(&certificate, || {
        let text = super::promote::text(&certificate);
        let file = path.display();
        let check = "its signature is not looked at here: outlast certificate verify";
        format!("{text}\nfile            {file}\nsigned          {check}")
    })?;
    Ok(Exit::Ok)
}

/// Where the certificate of a promotion is, in a line for people; none if it is not there.
pub(super) fn kept_at(dir: &Path, certificate: &Certificate) -> Option<String> {
    let path = outlast_standby::certificate::certificate_path(
        &NodeDir::new(dir),
        certificate.epoch.as_ref()?,
    );
    if !path.exists() {
        return Some("NOT KEPT: copy this text".to_owned());
    }
    let signed = if signature_path(&path).exists() {
        "signed"
    } else {
        "NOT SIGNED: the node's key could not be used"
    };
    Some(format!("{}, {signed}", path.display()))
}

fn stored(global: &Global) -> Result<Vec<StoredCertificate>, Failure> {
    let dir = NodeDir::new(global.dir()?);
    stored_certificates(&dir).map_err(|error| {
        let what = format!("cannot read {}", dir.promotions().display());
        Failure::from(anyhow::Error::new(error).context(what))
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    read_certificate_file(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let error = anyhow::Error::new(error).context(format!("cannot read {}", path.display()));
        let failure = Failure::new(Exit::Usage, error);
        if missing {
            failure.hint("a certificate is two files: the second one ends in .json.sig")
        } else {
            failure
        }
    })
}

fn when(wall_ms: u64) -> String {
    let ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or("-".to_owned(), |at| at.to_string())
}
