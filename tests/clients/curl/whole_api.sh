#!/bin/sh
# The API with curl and jq. OPENAI_BASE_URL and OPENAI_API_KEY say where. Argument: a JSONL file of twelve rows.
set -eu
rows=$1

main() {
    file=$(call POST files -F purpose=fine-tune -F "file=@$rows" | jq -er .id)
    call GET "files/$file/content" | cmp - "$rows"
    [ "$(call GET "files/$file/content" -H 'Range: bytes=2-5')" = "$(dd if="$rows" bs=1 skip=2 count=4 2>/dev/null)" ]
    call GET 'files?purpose=fine-tune&limit=1' | jq -e '.object == "list" and (.data | length) == 1' >/dev/null

    upload=$(post uploads "{\"filename\": \"up.jsonl\", \"purpose\": \"fine-tune\", \"bytes\": $(wc -c <"$rows"),
        \"mime_type\": \"application/jsonl\"}" | jq -er .id)
    part=$(call POST "uploads/$upload/parts" -F "data=@$rows" | jq -er .id)
    post "uploads/$upload/complete" "{\"part_ids\": [\"$part\"]}" | jq -e '.status == "completed"' >/dev/null

    job=$(post fine_tuning/jobs "{\"model\": \"fettle-tiny\", \"training_file\": \"$file\", \"suffix\": \"curl\",
        \"hyperparameters\": {\"n_epochs\": 1}, \"metadata\": {\"client\": \"curl\"}}" | jq -er .id)
    call GET -G fine_tuning/jobs --data-urlencode 'metadata[client]=curl' | jq -e ".data[0].id == \"$job\"" >/dev/null
    wait_for_job
    call GET "fine_tuning/jobs/$job/events?limit=100" | jq -r '.data[].message' | grep -qx "Created fine-tuning job: $job"
    call GET "fine_tuning/jobs/$job/checkpoints" | jq -e ".data[0].fine_tuned_model_checkpoint == \"$model\"" >/dev/null

    post chat/completions "{\"model\": \"$model\", \"max_tokens\": 8,
        \"messages\": [{\"role\": \"user\", \"content\": \"Hello?\"}]}" | jq -e ".model == \"$model\"" >/dev/null
    post chat/completions "{\"model\": \"$model\", \"max_tokens\": 8, \"stream\": true,
        \"messages\": [{\"role\": \"user\", \"content\": \"Hello?\"}]}" | tail -2 | grep -qx 'data: \[DONE\]'

    call DELETE "models/$model" | jq -e .deleted >/dev/null
    call DELETE "files/$file" | jq -e .deleted >/dev/null
    refused 404 "No such File object: $file" GET "files/$file"
    refused 404 "The model '$model' does not exist" GET "models/$model"
    refused 404 'Invalid URL (GET /v1/no/such/thing)' GET no/such/thing
    refused 400 'Missing required parameter: '"'training_file'." \
        POST fine_tuning/jobs -H 'Content-Type: application/json' -d '{"model": "fettle-tiny"}'
    echo "curl: all is well"
}

# call METHOD PATH [curl's options]: the answer's body; an error of the server ends the script
call() {
    method=$1
    [ "$2" = -G ] && shift && set -- "$@" -G
    path=$2
    shift 2
    curl -sS --fail-with-body -X "$method" -H "Authorization: Bearer $OPENAI_API_KEY" "$@" "$OPENAI_BASE_URL/$path"
}

post() {
    call POST "$1" -H 'Content-Type: application/json' -d "$2"
}

# refused STATUS MESSAGE METHOD PATH [curl's options]
refused() {
    status=$1 message=$2 method=$3 path=$4
    shift 4
    answer=$(curl -sS -w '\n%{http_code}' -X "$method" -H "Authorization: Bearer $OPENAI_API_KEY" "$@" "$OPENAI_BASE_URL/$path")
    [ "$(echo "$answer" | tail -1)" = "$status" ]
    echo "$answer" | sed '$d' | jq -e --arg message "$message" \
        '.error.message == $message and (.error | keys) == ["code", "message", "param", "type"]' >/dev/null
}

# sets model
wait_for_job() {
    for _ in $(seq 480); do
        answer=$(call GET "fine_tuning/jobs/$job")
        case $(echo "$answer" | jq -r .status) in
            succeeded) model=$(echo "$answer" | jq -er .fine_tuned_model) && return ;;
            failed | cancelled) echo "$answer" && exit 1 ;;
        esac
        sleep 0.5
    done
    echo "the job did not end: $answer" && exit 1
}

main
