//! A registry, by the OCI distribution specification: tokens, redirects, manifests and blobs. It may lie
//! about everything; what it sends is checked by whoever reads it. A login goes to the registry itself
//! and to the token server that it names, never to where a redirect leads.

use std::sync::{Mutex, PoisonError};

use hyper::header::{self, HeaderName};
use hyper::{Method, StatusCode, Uri};

use super::OciError;
use super::artifact::{ACCEPT, MANIFEST_TYPE, MAX_DOCUMENT};
use super::auth::{self, Challenge, Login};
use super::http::{Answer, Ask, Http, Upload, authority};
use super::reference::Digest;
use crate::plugin::manifest::shown;

/// Redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// What is read of an answer that is a token, or an error.
const MAX_TOKEN: u64 = 64 << 10;

/// One repository of a registry.
pub(super) struct Repository<'a> {
    http: &'a Http,
    base: Uri,
    name: &'a str,
    login: Option<Login>,
    /// `Authorization` that was found to be asked for.
    granted: Mutex<Option<String>>,
    /// What is asked for: `pull`, or `pull,push`.
    actions: &'static str,
}

/// What differs between requests.
struct What {
    method: Method,
    accept: &'static str,
    content_type: &'static str,
    upload: Upload,
}

impl What {
    fn get(accept: &'static str) -> Self {
        Self { method: Method::GET, accept, content_type: "", upload: Upload::Nothing }
    }
}

impl<'a> Repository<'a> {
    /// A repository of `host`; nothing is sent yet.
    pub fn new(
        http: &'a Http,
        host: &str,
        name: &'a str,
        login: Option<Login>,
        actions: &'static str,
    ) -> Result<Self, OciError> {
        Ok(Self { http, base: http.base(host)?, name, login, granted: Mutex::new(None), actions })
    }

    fn at(&self, path: &str) -> Result<Uri, OciError> {
        self.http.follow(&self.base, &format!("/v2/{}/{path}", self.name))
    }

    /// Sends a request; logs in where that is asked for, and follows redirects of reads.
    async fn send(&self, mut uri: Uri, what: &What) -> Result<Answer, OciError> {
        let (mut redirects, mut logged_in) = (0, false);
        loop {
            let own = uri.scheme() == self.base.scheme() && authority(&uri) == authority(&self.base);
            let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let ask = Ask {
                method: what.method.clone(),
                accept: what.accept,
                authorization: granted.as_deref().filter(|_| own),
                content_type: what.content_type,
                upload: what.upload.clone(),
            };
            let answer = self.http.ask(&uri, ask).await?;
            let reads = what.method == Method::GET || what.method == Method::HEAD;
            match answer.status {
                StatusCode::UNAUTHORIZED if own && !logged_in => {
                    logged_in = true;
                    let granted = self.log_in(answer).await?;
                    *self.granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(granted);
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
                    if reads =>
                {
                    redirects += 1;
                    if redirects > MAX_REDIRECTS {
                        let problem = format!("more than {MAX_REDIRECTS} redirects");
                        return Err(OciError::Network { host: answer.host.clone(), problem });
                    }
                    let to = answer.header(header::LOCATION).unwrap_or_default();
                    uri = self.http.follow(&uri, to)?;
                }
                _ => return Ok(answer),
            }
        }
    }

    /// Finds what to send as `Authorization` after a 401.
    async fn log_in(&self, answer: Answer) -> Result<String, OciError> {
        let host = authority(&self.base);
        let denied = |problem: &str| OciError::Denied { host: host.to_owned(), problem: problem.to_owned() };
        let values = answer.headers.get_all(header::WWW_AUTHENTICATE);
        let challenge = Challenge::parse(values.iter().filter_map(|value| value.to_str().ok()))
            .ok_or_else(|| denied("it asks for a login in no way that is known (Basic, Bearer)"))?;
        drop(answer);
        let (realm, service) = match (challenge, &self.login) {
            (Challenge::Basic, Some(login)) => return Ok(login.header()),
            (Challenge::Bearer { .. }, Some(login @ Login::Token(_))) => return Ok(login.header()),
            (Challenge::Basic, None) => {
                return Err(denied("it asks for a login, and there is none for it"));
            }
            (Challenge::Bearer { realm, service }, _) => (realm, service),
        };
        let scope = auth::escaped(&format!("repository:{}:{}", self.name, self.actions));
        let mut address = format!("{realm}{}scope={scope}", if realm.contains('?') { '&' } else { '?' });
        if let Some(service) = service {
            address.push_str(&format!("&service={}", auth::escaped(&service)));
        }
        let uri = self.http.follow(&self.base, &address)?;
        let basic = self.login.as_ref().map(Login::header);
        let ask = Ask {
            method: Method::GET,
            accept: "",
            authorization: basic.as_deref(),
            content_type: "",
            upload: Upload::Nothing,
        };
        // Redirects are not followed: a login goes where the registry said and no further.
        let mut answer = self.http.ask(&uri, ask).await?;
        let body = answer.whole(MAX_TOKEN).await?;
        if answer.status != StatusCode::OK {
            let problem =
                format!("its token server {} says {}{}", answer.host, answer.status, auth::complaint(&body));
            return Err(denied(&problem));
        }
        let token =
            auth::token(&body).map_err(|problem| OciError::Network { host: answer.host.clone(), problem })?;
        Ok(format!("Bearer {token}"))
    }

    /// The error of an answer that is none that was hoped for.
    async fn refused(&self, mut answer: Answer, what: &str) -> OciError {
        let host = answer.host.clone();
        let body = answer.whole(MAX_TOKEN).await.unwrap_or_default();
        let problem = format!("{what}: it says {}{}", answer.status, auth::complaint(&body));
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => OciError::Denied { host, problem },
            _ => OciError::Network { host, problem },
        }
    }

    /// The bytes of a manifest, by digest or tag. Not checked.
    pub async fn manifest(&self, name: &str) -> Result<Vec<u8>, OciError> {
        let mut answer = self.send(self.at(&format!("manifests/{name}"))?, &What::get(ACCEPT)).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(answer, &format!("manifest {name}")).await);
        }
        answer.whole(MAX_DOCUMENT).await
    }

    /// A blob, its bytes still to be read and checked.
    pub async fn blob(&self, digest: &Digest) -> Result<Answer, OciError> {
        let answer = self.send(self.at(&format!("blobs/{digest}"))?, &What::get("")).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(answer, &format!("blob {digest}")).await);
        }
        Ok(answer)
    }

    /// Sends a blob unless it is there.
    pub async fn put_blob(&self, digest: &Digest, upload: Upload) -> Result<(), OciError> {
        let what = |method: Method, upload: Upload| What {
            method,
            accept: "",
            content_type: "application/octet-stream",
            upload,
        };
        let uri = self.at(&format!("blobs/{digest}"))?;
        if self.send(uri, &what(Method::HEAD, Upload::Nothing)).await?.status == StatusCode::OK {
            return Ok(());
        }
        let begun = what(Method::POST, Upload::Bytes(bytes::Bytes::new()));
        let answer = self.send(self.at("blobs/uploads/")?, &begun).await?;
        if answer.status != StatusCode::ACCEPTED {
            return Err(self.refused(answer, "to begin an upload").await);
        }
        let location = answer.header(HeaderName::from_static("location")).unwrap_or_default().to_owned();
        let sign = if location.contains('?') { '&' } else { '?' };
        let uri = self.http.follow(&self.base, &format!("{location}{sign}digest={digest}"))?;
        let answer = self.send(uri, &what(Method::PUT, upload)).await?;
        if answer.status != StatusCode::CREATED {
            return Err(self.refused(answer, &format!("upload of blob {digest}")).await);
        }
        Ok(())
    }

    /// Publishes a manifest by a tag or its digest.
    pub async fn put_manifest(&self, name: &str, bytes: Vec<u8>) -> Result<(), OciError> {
        let what = What {
            method: Method::PUT,
            accept: "",
            content_type: MANIFEST_TYPE,
            upload: Upload::Bytes(bytes.into()),
        };
        let answer = self.send(self.at(&format!("manifests/{name}"))?, &what).await?;
        if answer.status != StatusCode::CREATED {
            return Err(self.refused(answer, &format!("manifest {}", shown(name))).await);
        }
        Ok(())
    }
}
