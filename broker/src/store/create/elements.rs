//! A guard over the reading of lifecycle rules (C2): the SDK passes over elements that it does not know, and rules that
//! are written back without them say something else. Ceph's `ArchiveZone` is one; S3 may come to have others.

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

/// What the SDK reads and writes, as of its version 1.157.
const KNOWN: [&str; 25] = [
    "AbortIncompleteMultipartUpload",
    "And",
    "Date",
    "Days",
    "DaysAfterInitiation",
    "Expiration",
    "ExpiredObjectDeleteMarker",
    "Filter",
    "ID",
    "Key",
    "LifecycleConfiguration",
    "NewerNoncurrentVersions",
    "NoncurrentDays",
    "NoncurrentVersionExpiration",
    "NoncurrentVersionTransition",
    "ObjectSizeGreaterThan",
    "ObjectSizeLessThan",
    "Prefix",
    "Rule",
    "Status",
    "StorageClass",
    "Tag",
    "Transition",
    "TransitionDefaultMinimumObjectSize",
    "Value",
];

/// Lets an answer pass only if the SDK knows every element in it.
#[derive(Debug)]
pub(super) struct KnownElements;

impl Intercept for KnownElements {
    fn name(&self) -> &'static str {
        "KnownElements"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        if !answer.status().is_success() {
            return Ok(());
        }
        let body = answer.body().bytes().ok_or("the answer is not in memory")?;
        match unknown(&String::from_utf8_lossy(body)) {
            None => Ok(()),
            Some(element) => Err(format!(
                "they hold the element <{element}>, which would be lost by writing them back. Add the rule with another tool"
            )
            .into()),
        }
    }
}

/// The name of the first element that is not known. Text cannot be taken for one: it has no `<`.
fn unknown(xml: &str) -> Option<&str> {
    xml.split('<')
        .skip(1)
        .filter(|tag| !tag.starts_with(['/', '?', '!']))
        .map(|tag| {
            tag.split(|end: char| end.is_whitespace() || end == '/' || end == '>').next().unwrap_or(tag)
        })
        .find(|name| !KNOWN.contains(&name.rsplit(':').next().unwrap_or(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_that_would_be_lost_is_noticed() {
        let rules = |filter: &str| {
            format!(
                "<?xml version=\"1.0\"?>\n<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <!-- x --><Rule><ID>a &lt;b&gt;</ID>{filter}<Status>Enabled</Status>\
                 <Expiration><Days>3</Days></Expiration></Rule></LifecycleConfiguration>"
            )
        };
        for known in ["", "<Filter/>", "<Filter />", "<Prefix>x</Prefix>"] {
            assert_eq!(unknown(&rules(known)), None, "{known}");
        }
        assert_eq!(unknown(&rules("<Filter><ArchiveZone/></Filter>")), Some("ArchiveZone"));
        assert_eq!(unknown("<LifecycleConfiguration><New a='1'>"), Some("New"));
        assert_eq!(unknown("<LifecycleConfiguration><New"), Some("New"));
    }
}
