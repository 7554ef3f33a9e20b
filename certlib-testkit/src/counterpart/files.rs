use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{Error, Result, pki::Issued};

/// Where a web server under test reads its certificate from: three file names in one directory.
///
/// Nothing is written on construction, so the directory can also be filled by the code under test.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    folder: PathBuf,
}

impl CertificateFiles {
    /// Names the files in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> CertificateFiles {
        CertificateFiles { folder: folder.into() }
    }

    /// The directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `fullchain.pem`: leaf, then issuer. Read by nginx and Apache.
    pub fn full_chain(&self) -> PathBuf {
        self.folder.join("fullchain.pem")
    }

    /// `privkey.pem`: the private key. Read by nginx and Apache.
    pub fn private_key(&self) -> PathBuf {
        self.folder.join("privkey.pem")
    }

    /// `combined.pem`: leaf, issuer and key. Read by HAProxy.
    pub fn combined(&self) -> PathBuf {
        self.folder.join("combined.pem")
    }

    /// Writes all three files, each replaced as a whole, readable by the owner only.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be written.
    pub fn write(&self, issued: &Issued) -> Result<()> {
        self.replace(&self.full_chain(), &issued.full_chain())?;
        self.replace(&self.private_key(), &issued.key_pem)?;
        self.replace(&self.combined(), &issued.combined())
    }

    fn replace(&self, path: &Path, content: &str) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(Error::file("creating", &self.folder))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(Error::file("writing", path))?;
        file.write_all(content.as_bytes()).map_err(Error::file("writing", path))?;
        file.persist(path).map_err(|error| Error::file("writing", path)(error.error))?;
        Ok(())
    }
}
