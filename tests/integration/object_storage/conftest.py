from tests.fixtures.object_storage import s3_bucket, s3_storage, stored

__all__ = ["s3_bucket", "s3_storage", "stored"]
