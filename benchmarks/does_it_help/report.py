import json
from benchmarks.does_it_help import statistics
def write(parts, out):
    for part in parts:
        for how in ("stopped","final"):
            print(part["name"],how); t=statistics.table_of(part,how)
            for k,v in t.items(): print(k,v)
            print(statistics.headline(t,"same budget"), statistics.front(part,how))
