//! Where a store is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Directory(PathBuf),
    /// `prefix` without slashes at either end; may be empty.
    Bucket {
        cloud: Cloud,
        bucket: String,
        prefix: String,
    },
}

/// Whose API a bucket is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    S3,
    Gcs,
    /// Azure's buckets are called containers.
    Azure,
}

impl Cloud {
    const ALL: [Cloud; 3] = [Cloud::S3, Cloud::Gcs, Cloud::Azure];

    fn scheme(self) -> &'static str {
        match self {
            Cloud::S3 => "s3",
            Cloud::Gcs => "gs",
            Cloud::Azure => "az",
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Location, Error> {
        let refuse =
            |detail: &str| Err(Error::Location { store: without_keys(text), detail: detail.to_owned() });
        if has_keys(text) {
            return refuse(super::KEYS_IN_URL);
        }
        let in_cloud = |cloud: Cloud| {
            let rest = text.strip_prefix(cloud.scheme())?.strip_prefix("://")?;
            Some((cloud, rest))
        };
        if let Some((cloud, rest)) = Cloud::ALL.into_iter().find_map(in_cloud) {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return refuse("the bucket is missing");
            }
            if rest.contains(['?', '#']) {
                return refuse(
                    "options go into flags such as --s3-endpoint and --azure-account, not into the URL",
                );
            }
            return Ok(Location::Bucket {
                cloud,
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
            });
        }
        let path = match text.strip_prefix("file:") {
            Some(rest) => match rest.strip_prefix("//") {
                // file:///absolute; file://host/… is somebody else's disk.
                Some(path) if path.starts_with('/') => path,
                Some(_) => return refuse("file://HOST/… names another host; write file:///absolute/path"),
                None => rest,
            },
            None if text.contains("://") => return refuse("the scheme is not known"),
            None => text,
        };
        if path.is_empty() {
            return refuse("the path is missing");
        }
        Ok(Location::Directory(PathBuf::from(path)))
    }
}

/// Whether a URL names a user, and perhaps a password, before its host. The password may hold slashes.
pub(super) fn has_keys(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, rest)| {
        let host = rest.split('/').next().unwrap_or_default();
        let after_colon = host.rsplit_once(':').map_or("", |(_, after)| after);
        let is_port = after_colon.bytes().all(|byte| byte.is_ascii_digit());
        // A directory may be called anything.
        scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
            && (host.contains('@') || !(is_port || host.starts_with('[')))
    })
}

/// The URL for people: what may be secret in it is left out.
fn without_keys(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, _)) if has_keys(url) => format!("{scheme}://..."),
        _ => url.to_owned(),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Two slashes at its front would be read as those before a host.
            Location::Directory(path) if path.display().to_string().starts_with("//") => {
                write!(formatter, "file://{}", path.display())
            }
            Location::Directory(path) => write!(formatter, "file:{}", path.display()),
            Location::Bucket { cloud, bucket, prefix } => {
                let slash = if prefix.is_empty() { "" } else { "/" };
                write!(formatter, "{}://{bucket}{slash}{prefix}", cloud.scheme())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_are_understood() {
        let on = |cloud, bucket: &str, prefix: &str| Location::Bucket {
            cloud,
            bucket: bucket.into(),
            prefix: prefix.into(),
        };
        let s3 = |bucket, prefix| on(Cloud::S3, bucket, prefix);
        for (text, expected) in [
            ("./ottla-data", Location::Directory("./ottla-data".into())),
            ("file:./ottla-data", Location::Directory("./ottla-data".into())),
            ("file:///var/lib/ottla", Location::Directory("/var/lib/ottla".into())),
            ("//data", Location::Directory("//data".into())),
            ("s3://bucket", s3("bucket", "")),
            ("s3://bucket/", s3("bucket", "")),
            ("s3://bucket/a/b/", s3("bucket", "a/b")),
            ("gs://bucket/a", on(Cloud::Gcs, "bucket", "a")),
            ("az://container", on(Cloud::Azure, "container", "")),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location, expected, "{text}");
            assert_eq!(location.to_string().parse::<Location>().unwrap(), location, "display round-trips");
        }
    }

    #[test]
    fn keys_in_a_url_are_refused_and_not_repeated() {
        for text in [
            "s3://id:secret@bucket/prefix",
            "http://secret@host",
            "s3://id:se@cret@bucket",
            "s3://id:sec/ret@bucket/prefix",
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(!error.contains("ret@"), "{error}");
            assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
        }
        assert!("s3://bucket/a@b".parse::<Location>().is_ok());
        assert!("file:a://b@c".parse::<Location>().is_ok());
    }

    #[test]
    fn what_is_not_understood_is_refused_with_the_reason() {
        for text in [
            "",
            "file:",
            "s3://",
            "gs:///prefix",
            "az://",
            "gopher://x",
            "file://host/path",
            "s3://b/p?region=x",
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{text}: {error}");
        }
    }
}
