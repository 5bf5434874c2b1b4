-- Lines for the quarantine, with the hash of their event's id: whoever brings that id again is in the same conflict. From:
-- events_judged.
select file_id, line_number, min(sha256(event_id)) as event_sha256
from events_judged
where outcome = 'conflict'
group by file_id, line_number
order by file_id, line_number
