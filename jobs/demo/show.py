"""Say what a run left behind, and try one query on it.  Run:  python jobs/demo/show.py RUN"""

import sys
from pathlib import Path

import duckdb


def main(run: Path) -> None:
    query = (
        "SELECT kind, count(*) AS images, round(avg(image_bytes)) AS bytes, any_value(image_uri) AS for_example "
        f"FROM '{run}/table/*.parquet' GROUP BY kind ORDER BY kind"
    )
    print(f"\nlook at    {run}/contact_sheet.png")
    print(f"pictures   {run}/images/")
    print(f"manifest   {run}/manifest/, in one file: {run}/table/")
    print(f"embeddings {run}/embeddings/")
    print(f"\nA query to try in DuckDB:\n  {query}\n")
    for row in duckdb.connect().execute(query).fetchall():
        print("  ", *row)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
