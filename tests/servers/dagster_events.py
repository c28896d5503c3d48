"""What a Dagster instance (that of DAGSTER_HOME) remembers of each run, as JSON on stdout.

Run with the Python of Dagster's own virtual environment.
"""

import json

import dagster as dg


def remember(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, object]:
    """Partition, state, materialisations and checks of a run."""
    found = {"partition": run.tags.get("dagster/partition"), "status": run.status.value}
    made, checks, messages = [], {}, []
    for event in instance.all_logs(run.run_id):
        if not event.is_dagster_event:
            messages.append(event.user_message)
            continue
        data = event.dagster_event.event_specific_data
        if event.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            metadata = data.materialization.metadata
            made.append({name: value.value for name, value in metadata.items()})
        elif event.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            checks[data.check_name] = [data.passed, data.severity.value, data.description]
    return found | {"made": made, "checks": checks, "messages": messages}


with dg.DagsterInstance.get() as instance:
    runs = sorted(instance.get_run_records(), key=lambda record: record.storage_id)
    print(json.dumps([remember(instance, record.dagster_run) for record in runs]))
