"""One parser per source: bytes or decoded fields -> canonical record or rejection. Pure; the bulk SQL is text built here."""
