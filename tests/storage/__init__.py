"""Storage and weights, on real disks and real S3 servers."""
