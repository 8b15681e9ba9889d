//! TLS for `amqps://`: rustls over tokio, put together here because what lapin would bring along for
//! it is eighty crates, most of them for formats that nobody is asked to use.

use std::io;
use std::sync::Arc;

use lapin::uri::{AMQPScheme, AMQPUri};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::ConnectError;
use super::stream::Socket;

/// What a TLS connection is made with: the system's authorities and `ca`, and a certificate of this
/// host's own if there is one. All in PEM.
///
/// # Errors
/// [`ConnectError::Certificates`].
pub(super) fn config(
    ca: Option<&str>,
    identity: Option<&(String, String)>,
) -> Result<Arc<ClientConfig>, ConnectError> {
    let wrong = |what: &'static str| move |reason: String| ConnectError::Certificates { what, reason };
    let mut roots = RootCertStore::empty();
    // A system without any is no error: `ca` may be all that is needed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(ca) = ca {
        for certificate in certificates(ca).map_err(wrong("authority"))? {
            roots.add(certificate).map_err(|e| wrong("authority")(e.to_string()))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("protocol version")(e.to_string()))?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates(chain).map_err(wrong("client certificate"))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
            let key = key.map_err(|e| wrong("client key")(e.to_string()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| wrong("client certificate")(e.to_string()))?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if all.is_empty() => Err("there is none in it: it must hold BEGIN CERTIFICATE".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

/// Connects to an address, with TLS if it says so.
pub(super) async fn connect(uri: &AMQPUri, config: &Arc<ClientConfig>) -> io::Result<Socket> {
    let host = uri.authority.host.as_str();
    // Brackets belong to the address as it is written, not to the host's name.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, uri.authority.port)).await?;
    socket.set_nodelay(true)?;
    match uri.scheme {
        AMQPScheme::AMQP => Ok(Socket::Plain(socket)),
        AMQPScheme::AMQPS => {
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let socket = TlsConnector::from(Arc::clone(config)).connect(name, socket).await?;
            Ok(Socket::Tls(Box::new(socket)))
        }
    }
}
