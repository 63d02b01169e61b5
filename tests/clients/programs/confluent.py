"""confluent-kafka over SASL_SSL; asked on stdin, answers on stdout."""

import json
import sys
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition

asked = json.load(sys.stdin)
access = {
    "bootstrap.servers": asked["kafka"],
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.username": asked["kafka_user"],
    "sasl.password": asked["kafka_password"],
    "ssl.ca.location": asked["kafka_ca"],
}
consumer = Consumer({**access, "group.id": str(uuid.uuid4()), "enable.auto.commit": False})
partitions = consumer.list_topics("inferlane.results", timeout=60).topics["inferlane.results"].partitions
ends = [TopicPartition("inferlane.results", number) for number in partitions]
for end in ends:
    end.offset = consumer.get_watermark_offsets(end, timeout=60)[1]
consumer.assign(ends)

producer = Producer({**access, "acks": "all"})
models = {}
for model, tensors in asked["questions"].items():
    request_id = str(uuid.uuid4())
    models[request_id] = model
    body = json.dumps({"inputs": [{"name": name, **tensor} for name, tensor in tensors.items()]})
    headers = {"ce_id": request_id, "ce_model": model, "ce_modelversion": "v1"}
    producer.produce("inferlane.bulk", value=body, headers=headers)
producer.flush(60)

found = {}
while len(found) < len(models):
    result = consumer.poll(60)
    assert result is not None, f"no result within 60 s; there are {list(found)}"
    assert result.error() is None, result.error()
    model = models.get(dict(result.headers())["ce_id"].decode())
    if model is not None:
        outputs = json.loads(result.value())["outputs"]
        found[model] = {output["name"]: output["data"] for output in outputs}
consumer.close()
sys.stdout.write(json.dumps(found))
